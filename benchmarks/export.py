"""Time the build and the check of the ONNX file, beside torch's own exporter.

Ours: the graph built directly from the pruned network, `onnx.checker`, and one ONNX Runtime session
that classifies the support set. Theirs: `torch.onnx.export` of the same network, to bytes and not
checked, without the preprocessing that our file contains. Both look at an image as often as models
of the checkpoint do.
"""

import argparse
import warnings
from collections.abc import Sequence
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, milliseconds, table
from benchmarks.harness.timing import in_turns, seconds, spread
from benchmarks.harness.workloads import Workload, checkpoint_of, task_of
from metanas.adaptation.adaptation import Adaptation
from metanas.adaptation.assemble import classifier_of, joint_of
from metanas.checkpoint import Checkpoint
from metanas.export.onnx_model import Classifier, to_onnx
from metanas.export.verify import check
from metanas.images.shifted_copies import looks
from metanas.images.support_set import Task
from metanas.util.work import whole

TOPIC = "export"
WORKLOADS = (
    Workload(network="shipped", ways=5, shots=1),
    Workload(network="shipped", ways=20, shots=5),
    Workload(network="photos", ways=5, shots=1, size=224, channels=3),
    Workload(network="photos", ways=5, shots=5, size=224, channels=3),
    Workload(network="paper", ways=5, shots=1),
    Workload(network="paper", ways=5, shots=1, size=84, channels=3),
)
TIMES = ("export", "check", "together")
TORCH_RUNS = 3


class Plain(nn.Module):
    """The classifier as one module, for torch's exporter."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        (encoder,) = classifier.encoders
        self.network = encoder.network  # what it holds becomes part of this module
        self.trunk = encoder.trunk or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier.logits([self.trunk(x)])


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each workload."""
    workloads = (each for each in WORKLOADS if selected(each.name, options.only))
    return [_measured(workload, options) for workload in workloads]


def _measured(workload: Workload, options: argparse.Namespace) -> Row:
    checkpoint = checkpoint_of(workload)
    task = task_of(checkpoint, workload, 0)
    unadapted = classifier(checkpoint, task)
    ours = in_turns({"": lambda _: _direct(unadapted, checkpoint, task)}, options.runs)[""]
    runs = 0 if options.no_torch else TORCH_RUNS
    theirs = [seconds(lambda: torch_export(unadapted)) for _ in range(runs)]
    return {
        "case": workload.name,
        "title": workload.title,
        "looks": looks(unadapted.shift_pixels),
        "direct": ours,
        "torch": theirs,
    }


@torch.no_grad()
def classifier(checkpoint: Checkpoint, task: Task) -> Classifier:
    """Build the classifier of no step: the meta-architecture with its head."""
    options = checkpoint.card.defaults.replace({"steps": 0, "tuning_steps": 0})
    adaptation = Adaptation(checkpoint, task.support, options, torch.Generator())
    return whole(classifier_of(joint_of(adaptation, task)))[0]


@torch.no_grad()
def _direct(classifier: Classifier, checkpoint: Checkpoint, task: Task) -> dict[str, float]:
    expected = classifier.logits([task.support.images])
    start = perf_counter()
    proto = to_onnx(classifier, checkpoint.ops, {})
    built = perf_counter()
    data, _ = whole(check(proto, task.images, expected, classifier.shift_pixels))
    end = perf_counter()
    took = {"export": built - start, "check": end - built, "together": end - start}
    return {**took, "bytes": len(data)}


def torch_export(classifier: Classifier) -> None:
    """Export the same network, of preprocessed images, by torch's own exporter."""
    size, channels = classifier.size, classifier.channels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside of the exporter
        module, example = Plain(classifier).eval(), (torch.zeros(2, channels, size, size),)
        program = torch.onnx.export(module, example, dynamo=True, verbose=False)
    assert program is not None
    program.model_proto.SerializeToString()


def tables(results: Results) -> dict[str, str]:
    """Make the table of both exporters."""
    header = ["milliseconds, medians", "looks", *TIMES, "most", "torch.onnx.export", "KiB"]
    lines = []
    for row in results.rows:
        ours = {key: [run[key] for run in row["direct"]] for key in (*TIMES, "bytes")}
        times = [*(median(ours[key]) for key in TIMES), spread(ours["together"]).most]
        theirs = milliseconds(median(row["torch"])) if row["torch"] else ["–"]
        size = figure(median(ours["bytes"]) / 1024)
        lines.append([row["title"], str(row["looks"]), *milliseconds(*times), *theirs, size])
    return {"export": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    made.add_argument("--no-torch", action="store_true", help="leave out torch's exporter")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.threads, options.no_torch = 2, [1], True
        options.only = options.only or ["shipped-28-5w1s"]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
