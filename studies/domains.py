"""Compare the universal search space, or a checkpoint, with a frozen trunk, over many data sets.

    python -m studies.domains meta_checkpoints --data FOLDER --out FILE.json

Each data set is a domain. The control is EfficientNet-Lite0 as published, at 224 pixels: the mean
of its last block, of unit length, under logistic regression with C = 100. Both meet the same
episodes.

Models take no step, so behind a trunk they are functions of the trunk's outputs, which are computed
once for each image. Exported files answer the first --check episodes as well. The evaluations are
in the folder --work and resume from there; those of the control serve every checkpoint.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import table
from metanas.adaptation.adaptation import Adaptation
from metanas.adaptation.assemble import Branch, Joint, classifier_of
from metanas.adaptation.budget import Budget
from metanas.adaptation.metrics import query_macs
from metanas.adaptation.scheduler import make_all
from metanas.adaptation.universal import Source, load_source
from metanas.checkpoint import Checkpoint
from metanas.evaluation.compare import paired
from metanas.evaluation.evaluate import job_of
from metanas.evaluation.resume import Plan, run_plan
from metanas.export.onnx_model import Classifier
from metanas.export.runtime import run as run_model
from metanas.export.runtime import session
from metanas.images.support_set import Image, Preprocessing, SupportSet, Task, preprocessing_for
from metanas.nn.ops import OPS
from metanas.nn.pretrained import SOURCES, pretrained_trunk
from metanas.nn.trunk import CHUNK
from metanas.spec.card import CheckpointCard, InputSpec
from metanas.spec.options import AdaptConfig, AffineRange
from metanas.spec.search_space import SearchSpace
from metanas.supernet.supernet import Supernet
from metanas.util.work import whole
from metanas_data.arrays import with_channels
from metanas_data.datasets.dataset import Dataset, pixels, read_dataset
from metanas_data.datasets.dataset import Images as Encoded
from metanas_data.datasets.episodes import Sampler
from metanas_data.evaluations import column
from metanas_data.intervals import mean_of
from metanas_data.journal import Record
from studies.evaluations import LOCAL, command, run, shape_of, title_of
from studies.intervals import outcome, percent, points

TOPIC = "domains"
PACKS = (
    "omniglot_28", "caltech101_224", "grocery_224", "emoji_128", "icons_96", "quickdraw_28",
    "glyphs_64", "flags_128", "logos_128", "seedlings_128", "trash_128", "pcbdefects_96",
)  # fmt: skip
TRUNK = "efficientnet-lite0"
LEAST_PART = 0.75
"""Least part of the classes with an image left beside the support set that take part."""

log = logging.getLogger(__name__)


class Inputs:
    """The inputs of networks for images that stay in memory; trunks see each image once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int, int], Tensor] = {}
        """Trunk, size and image -> row `(K,)`."""

    def __call__(
        self, checkpoint: Checkpoint, preprocess: Preprocessing, images: Sequence[Image]
    ) -> Tensor:
        """Return the inputs `(N, ...)` of a checkpoint's network."""
        channels, trunk = checkpoint.card.input.channels, checkpoint.trunk
        if trunk is None:
            return torch.cat([preprocess(with_channels(image, channels)) for image in images])
        keys = [(id(trunk), preprocess.size, id(image)) for image in images]
        missing = [at for at, key in enumerate(keys) if key not in self._rows]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            rows = trunk(torch.cat([preprocess(images[at]) for at in part]))
            self._rows.update(zip((keys[at] for at in part), rows, strict=True))
        return torch.stack([self._rows[key] for key in keys])


class Images:
    """The decoded images of a data set; each is decoded once."""

    def __init__(self) -> None:
        self._images: dict[int, Image] = {}

    def __call__(self, classes: Mapping[str, Encoded]) -> list[Image]:
        """Return the images of an episode's classes in order, in RGB."""
        every = [image for of_class in classes.values() for image in of_class]
        for image in every:
            if id(image) not in self._images:
                self._images[id(image)] = pixels(image, 3)
        return [self._images[id(image)] for image in every]


@dataclass(frozen=True)
class Made:
    """A model without steps, from inputs that stay in memory."""

    joint: Joint
    classifier: Classifier
    preprocessing: tuple[Preprocessing, ...]
    inputs: Inputs

    def inputs_of(self, images: Sequence[Image]) -> list[Tensor]:
        """Return the inputs of each network for images in RGB."""
        networks = zip(self.joint.branches, self.preprocessing, strict=True)
        return [self.inputs(each.adaptation.checkpoint, how, images) for each, how in networks]


def make(
    source: Source,
    inputs: Inputs,
    support: Sequence[Image],
    labels: Tensor,
    names: tuple[str, ...],
    options: AdaptConfig,
) -> Made:
    """Make the model of a support set with labels `(N,)`, in closed form."""
    choice = Budget(source, options).choose(support, [names[label] for label in labels.tolist()])
    branches, preprocessing = list[Branch](), list[Preprocessing]()
    for checkpoint, share in choice.branches:
        card = checkpoint.card
        converted = [with_channels(image, card.input.channels) for image in support]
        preprocess = preprocessing_for(converted, card.input)
        task = SupportSet(inputs(checkpoint, preprocess, support), labels, names)
        adaptation = Adaptation(checkpoint, task, options, torch.Generator())
        branches.append(Branch(adaptation, Task(tuple(converted), preprocess, task, ""), share))
        preprocessing.append(preprocess)
    joint = Joint(tuple(branches), choice.origin, choice.scale)
    classifier, _ = whole(classifier_of(joint))
    return Made(joint, classifier, tuple(preprocessing), inputs)


@torch.no_grad()
def closed_form(
    inputs: Inputs, images: Images, check: int, plan: Plan, episodes: Sequence[int]
) -> Iterator[Record]:
    """Measure models without steps, and compare exported files with them."""
    source, shape = plan.checkpoint, plan.sampler.shape
    labels = torch.arange(shape.ways).repeat_interleave(shape.shots)
    for index in episodes:
        episode = plan.sampler.episode(index)
        support, queries = images(episode.support), images(episode.queries)
        made = make(source, inputs, support, labels, tuple(episode.support), plan.options)
        classifier = made.classifier
        logits = classifier.logits(made.inputs_of(queries))
        macs = query_macs(classifier, [each.task.support for each in made.joint.branches])
        record = {**_record(plan, index, logits.argmax(1).tolist()), "macs": macs}
        if index < check:
            job = job_of(source, episode, plan.options)
            make_all([job])
            model = job.result()
            converted = [with_channels(image, classifier.channels) for image in queries]
            calibrated = torch.from_numpy(run_model(session(model.onnx), converted))
            answers = calibrated * model.report.temperature
            other = int((answers.argmax(1) != logits.argmax(1)).sum())
            record = {**record, "other": other, "off": float((answers - logits).abs().max())}
        yield record


def regression(
    control: Checkpoint, inputs: Inputs, images: Images, plan: Plan, episodes: Sequence[int]
) -> Iterator[Record]:
    """Measure logistic regression on the outputs of the control's trunk, of unit length."""
    shape = plan.sampler.shape
    for index in episodes:
        episode = plan.sampler.episode(index)
        preprocess = preprocessing_for([], control.card.input)
        support, queries = (
            F.normalize(inputs(control, preprocess, images(classes)), dim=1).numpy()
            for classes in (episode.support, episode.queries)
        )
        model = LogisticRegression(C=100.0, max_iter=1000)
        model.fit(support, np.arange(shape.ways).repeat(shape.shots))
        yield _record(plan, index, model.predict(queries))


def _record(plan: Plan, index: int, answers: Sequence[int]) -> Record:
    labels = np.arange(plan.sampler.shape.ways).repeat(plan.sampler.shape.queries)
    return {"episode": index, "accuracy": float((np.asarray(answers) == labels).mean())}


def frozen_lite0() -> Checkpoint:
    """Build the trunk of the control, as a checkpoint that has learned nothing.

    Raises:
        CheckpointError: TRUNK_MISSING, TRUNK_DAMAGED.
    """
    space = SearchSpace(
        input_channels=3, ops=("skip_connect",), channels=(), reductions=(), trunk=TRUNK
    )
    card = CheckpointCard(
        name="frozen-lite0",
        description="EfficientNet-Lite0 as published.",
        input=InputSpec(channels=3, size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        space=space,
        defaults=AdaptConfig(steps=0, tuning_steps=0),
        augment=AffineRange(),
        parameters=0,
        weights_sha256=SOURCES[TRUNK].sha256,
    )
    net = Supernet(space, OPS)
    return Checkpoint(card, net, dict(net.named_parameters()), OPS, trunk=pretrained_trunk(space))


def sampler_of(dataset: Dataset, shape: str, most: int, seed: int) -> Sampler | None:
    """Return the source of the episodes of a domain, or None if it has too few images.

    Classes have `most` queries, or as many as three quarters of the classes with an image left can
    give: smaller classes are often another sort of image.
    """
    wanted = shape_of(shape, most)
    left = [len(each) - wanted.shots for each in dataset.classes.values()]
    left = sorted((each for each in left if each > 0), reverse=True)
    if len(left) < wanted.ways:
        log.warning("%s has too few images for %s", dataset.name, title_of(shape))
        return None
    taking_part = max(wanted.ways, ceil(LEAST_PART * len(left)))
    return Sampler(dataset, shape_of(shape, min(most, left[taking_part - 1])), seed)


def tables(results: Results) -> Mapping[str, str]:
    """Make a table for each shape: a domain a line, and the means over domains."""
    by_shape: dict[str, list[Row]] = {}
    for row in results.rows:
        by_shape.setdefault(f"{row['ways']}x{row['shots']}", []).append(row)
    domains = {shape: _domains(title_of(shape), rows) for shape, rows in by_shape.items()}
    return {**domains, "files": _files(results.rows)}


def _domains(title: str, rows: Sequence[Row]) -> str:
    header = [title, "episodes", f"{rows[0]['checkpoint']}, %", "frozen Lite0, %"]
    header += ["difference, points", "outcome", "million MACs"]
    lines, means = [], []
    for row in rows:
        comparison = paired(row["accuracy"], row["control"])
        one, other = mean_of(row["accuracy"]), mean_of(row["control"])
        means.append((one.mean, other.mean, comparison.difference.mean))
        line = [row["dataset"].removesuffix(".npz"), str(comparison.episodes)]
        lead = comparison.difference
        macs = f"{mean_of(row['macs']).mean / 1e6:.0f}"
        lines.append([*line, percent(one), percent(other), points(lead), outcome(lead), macs])
    if len(rows) > 1:
        one, other, lead = (mean_of(each) for each in zip(*means, strict=True))
        line = ["mean over domains", "", percent(one), percent(other), points(lead)]
        every = [mean_of(row["macs"]).mean / 1e6 for row in rows]
        lines.append([*line, outcome(lead), f"{sum(every) / len(every):.0f}"])
    return table(header, lines)


def _files(rows: Sequence[Row]) -> str:
    """Make the table of the exported files of a few episodes beside what was measured."""
    other, off = ([value for row in rows for value in row[name]] for name in ("other", "off"))
    header = ["files", "answers that differ", "most that a logit differs by"]
    return table(header, [[str(len(off)), f"{sum(other):.0f}", f"{max(off, default=0):.0e}"]])


def _study(options: argparse.Namespace) -> Iterator[Row]:
    """Read all data sets, so that bad input shows before the first evaluation; then run."""
    source, control = load_source(options.checkpoint), frozen_lite0()
    inputs, images = Inputs(), Images()
    closed = source.defaults.replace({"steps": 0, "tuning_steps": 0, "shift_pixels": 0})
    ours = partial(closed_form, inputs, images, options.check)
    theirs = partial(regression, control, inputs, images)
    datasets = [read_dataset(options.data / f"{pack}.npz") for pack in options.packs]
    samplers = [
        sampler_of(dataset, shape, options.queries, options.seed)
        for dataset in datasets
        for shape in options.shapes
    ]
    options.work.mkdir(parents=True, exist_ok=True)
    for sampler in (each for each in samplers if each is not None):
        plan = Plan(checkpoint=source, sampler=sampler, episodes=options.episodes, options=closed)
        same = replace(plan, checkpoint=control, options=control.card.defaults)
        records, controls = (
            run_plan(each, options.work / _name(each), measure=measure)
            for each, measure in ((plan, ours), (same, theirs))
        )
        columns = {name: column(records, name) for name in ("accuracy", "macs", "other", "off")}
        yield {**plan.settings(), **columns, "control": column(controls, "accuracy")}


def _name(plan: Plan) -> str:
    """Name the file of an evaluation, and say that it is being made."""
    source, sampler = plan.checkpoint, plan.sampler
    shape = f"{sampler.shape.ways}x{sampler.shape.shots}"
    name = f"{source.name}-{source.digest[:8]}-{sampler.dataset.name}-{shape}.json"
    print(f"evaluate {name}", file=sys.stderr, flush=True)
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add, count = made.add_argument, partial(made.add_argument, type=int, metavar="N")
    add("checkpoint", type=Path, help="its folder, or that of universal.json")
    add("--data", type=Path, required=True, help="folder of npz files")
    add("--packs", nargs="+", default=PACKS, metavar="NAME", help="files in it (%(default)s)")
    add("--shapes", nargs="+", default=["5x1", "5x5", "10x20"], metavar="WAYSxSHOTS")
    count("--episodes", default=100, help="of a domain and shape (%(default)s)")
    count("--queries", default=5, help="the most of a class (%(default)s)")
    count("--check", default=2, help="episodes exported in full (%(default)s)")
    count("--seed", default=0, help="seed of the episodes (%(default)s)")
    add("--work", type=Path, default=LOCAL / TOPIC, help="folder of the evaluations (%(default)s)")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    return run(TOPIC, options.out, lambda: list(_study(options)), tables)


if __name__ == "__main__":
    sys.exit(main())
