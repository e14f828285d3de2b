"""Check the estimates of reports, and the output `known`, against the truth over many data sets.

    python -m studies.quality meta_checkpoints --data FOLDER --out FILE.json

Each data set is a kind of images, and a task has classes of one kind. Its model meets new images
of its classes, images of other classes of the kind, images of the next data set, and noise, plain
and text images. Then one label of the support set is made wrong. Models take no step; see
`studies.domains`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw
from torch import Tensor

from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import table
from metanas.adaptation.assemble import left_out_of
from metanas.adaptation.universal import Source, load_source
from metanas.estimates.calibration import temperature_of
from metanas.estimates.estimates import estimates_of
from metanas.estimates.left_out import LeftOut
from metanas.images.support_set import Image
from metanas.util.work import whole
from metanas_data.datasets.dataset import read_dataset
from metanas_data.datasets.episodes import Sampler
from metanas_data.intervals import mean_of
from metanas_data.metrics import measure
from studies.domains import PACKS, Images, Inputs, Made, make, sampler_of
from studies.evaluations import LOCAL, command, run

TOPIC = "quality"
OTHERS, KINDS, SYNTHETIC = "other classes", "other kinds", "noise, plain, text"
EACH = 10
"""Foreign images of a group in a task."""
SUSPECTS = 3
"""Most suspicious images among which a wrong label is looked for."""

Figures = dict[str, float]
Columns = Mapping[str, Callable[[Row], float]]


class Kind(NamedTuple):
    """A data set, and foreign images for its models."""

    sampler: Sampler
    foreign: Mapping[str, list[Image]]


class Studied(NamedTuple):
    """The networks, and what is kept between tasks."""

    source: Source
    inputs: Inputs
    images: Images

    def make(self, support: Sequence[Image], labels: Tensor, names: tuple[str, ...]) -> Made:
        """Make a model without steps."""
        closed = {"steps": 0, "tuning_steps": 0, "shift_pixels": 0}
        options = self.source.defaults.replace(closed)
        return make(self.source, self.inputs, support, labels, names, options)


@torch.no_grad()
def measure_kind(studied: Studied, kind: Kind, tasks: int) -> Row:
    """Measure the tasks of a data set: figures of each task, and the calibration over all."""
    sampler = kind.sampler
    measured = [_task(studied, kind, index) for index in range(tasks)]
    columns = {name: [figures[name] for figures, _ in measured] for name in measured[0][0]}
    right, *confidences = np.concatenate([answers for _, answers in measured], axis=1)
    errors = [_calibration_error(right, each) for each in confidences]
    digest = {"checkpoint": studied.source.name, "checkpoint_digest": studied.source.digest}
    return {**sampler.settings(), **digest, **columns, "calibration": errors}


def _task(studied: Studied, kind: Kind, index: int) -> tuple[Figures, list[list[float]]]:
    """Return the figures of a task; then, of each query, if it is right, and its confidences."""
    shape, random = kind.sampler.shape, np.random.default_rng([kind.sampler.seed, index])
    labels = torch.arange(shape.ways).repeat_interleave(shape.shots)
    episode = kind.sampler.episode(index)
    names = tuple(episode.support)
    support, queries = studied.images(episode.support), studied.images(episode.queries)
    made = studied.make(support, labels, names)
    features = made.classifier.features(made.inputs_of(queries))
    logits = features @ made.classifier.weight.T + made.classifier.bias
    right = logits.argmax(1) == torch.arange(shape.ways).repeat_interleave(shape.queries)
    figures = _known(made, features, {**kind.foreign, **_strangers(studied, kind, names, random)})
    answers = [right.tolist(), logits.softmax(1).amax(1).tolist()]
    if shape.shots > 1:
        left, accuracy = _left_out(made), float(right.float().mean())
        figures |= _estimates(left, accuracy)
        figures |= _wrong_label(studied, support, labels, names, random)
        answers.append((logits / temperature_of(left)).softmax(1).amax(1).tolist())
    return figures, answers


def _known(made: Made, features: Tensor, foreign: Mapping[str, Sequence[Image]]) -> Figures:
    known = made.classifier.known
    assert known is not None
    own = known(features)
    figures = {"alarms": float((own < 0.5).float().mean())}
    for group, images in foreign.items():
        theirs = known(made.classifier.features(made.inputs_of(images)))
        higher = (own[:, None] > theirs).float() + 0.5 * (own[:, None] == theirs)
        figures[f"auroc, {group}"] = float(higher.mean())
        figures[f"found, {group}"] = float((theirs < 0.5).float().mean())
    return figures


def _calibration_error(right: NDArray[np.float64], confidence: NDArray[np.float64]) -> float:
    truth, answer = (1 - right).astype(int), np.zeros(len(right), int)
    return measure(["right", "wrong"], truth, answer, confidence).calibration_error


def _strangers(
    studied: Studied, kind: Kind, names: Sequence[str], random: np.random.Generator
) -> dict[str, list[Image]]:
    """Draw images of other classes of the kind."""
    classes = kind.sampler.dataset.classes
    others = [image for name in kind.sampler.sizes if name not in names for image in classes[name]]
    rows = random.choice(len(others), EACH, replace=False)
    return {OTHERS: studied.images({"": tuple(others[row] for row in rows)})}


def _left_out(made: Made) -> LeftOut:
    left = whole(left_out_of(made.joint, made.classifier.scale, seed=0))
    assert left is not None
    return left


def _estimates(left: LeftOut, accuracy: float) -> Figures:
    estimate = estimates_of(left)
    return {
        "error": estimate.accuracy - accuracy,
        "covered": float(estimate.low <= accuracy <= estimate.high),
        "clean": float(sum(each.likely for each in estimate.suspicious)),
    }


def _wrong_label(
    studied: Studied,
    support: Sequence[Image],
    labels: Tensor,
    names: tuple[str, ...],
    random: np.random.Generator,
) -> Figures:
    """Give one image the label of another class, and look for it."""
    at, wrong = int(random.integers(len(labels))), labels.clone()
    wrong[at] = (int(wrong[at]) + int(random.integers(1, len(names)))) % len(names)
    suspicious = estimates_of(_left_out(studied.make(support, wrong, names))).suspicious
    flagged = [each.index for each in suspicious if each.likely]
    first = [each.index for each in suspicious[:SUSPECTS]]
    return {"first": float(at in first), "flagged": float(at in flagged)}


def synthetic() -> list[Image]:
    """Make noise, plain and text images, `(128, 128, 3)`."""
    random = np.random.default_rng(0)
    shape = (128, 128, 3)
    noise = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(4)]
    plain = [np.full(shape, level, np.uint8) for level in (0, 128, 255)]
    return [*noise, *plain, *(_page(seed) for seed in range(3))]


def _page(seed: int) -> Image:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      "))
    random, page = np.random.default_rng(seed), Picture.new("RGB", (128, 128), "white")
    lines = ("".join(random.choice(letters, 20)) for _ in range(9))
    ImageDraw.Draw(page).multiline_text((2, 2), "\n".join(lines), fill="black")
    return np.asarray(page)


def tables(results: Results) -> Mapping[str, str]:
    """Make the tables: estimates, and the output `known` for each number of shots.

    The table of one shot has the means over kinds alone.
    """
    several = [row for row in results.rows if row["shots"] > 1]
    made = {"estimates": _table(ESTIMATES, several)} if several else {}
    for shots in sorted({row["shots"] for row in results.rows}):
        rows = [row for row in results.rows if row["shots"] == shots]
        made[f"known-{shots}"] = _table(KNOWN, rows, kinds=shots > 1)
    return made


def _percent(row: Row, name: str) -> float:
    return 100 * mean_of(row[name]).mean


ESTIMATES: Columns = {
    "estimate less truth, points": lambda row: _percent(row, "error"),
    "queries a task": lambda row: row["ways"] * row["queries"],
    "interval contains their accuracy, %": lambda row: _percent(row, "covered"),
    "calibration error, %": lambda row: 100 * row["calibration"][1],
    "without temperature": lambda row: 100 * row["calibration"][0],
    f"wrong label among the first {SUSPECTS}, %": lambda row: _percent(row, "first"),
    "flagged, %": lambda row: _percent(row, "flagged"),
    "false alarms a clean task": lambda row: mean_of(row["clean"]).mean,
}
KNOWN: Columns = {
    "own classes refused, %": lambda row: _percent(row, "alarms"),
    **{
        f"{group}: {title}": partial(_percent, name=f"{key}, {group}")
        for group in (OTHERS, KINDS, SYNTHETIC)
        for key, title in (("found", "refused, %"), ("auroc", "AUROC, %"))
    },
}


def _table(columns: Columns, rows: Sequence[Row], kinds: bool = True) -> str:
    values = [[column(row) for column in columns.values()] for row in rows]
    titles = [row["dataset"].removesuffix(".npz") for row in rows]
    means = np.mean(values, axis=0).tolist()
    lines = zip([*titles, "mean over kinds"], [*values, means], strict=True)
    shown = [[title, *(f"{value:.1f}" for value in line)] for title, line in lines]
    return table(
        [f"{rows[0]['ways']}-way {rows[0]['shots']}-shot", *columns], shown if kinds else shown[-1:]
    )


def _study(options: argparse.Namespace) -> Iterator[Row]:
    studied = Studied(load_source(options.checkpoint), Inputs(), Images())
    datasets = [read_dataset(options.data / f"{pack}.npz") for pack in options.packs]
    made = synthetic()
    for dataset, following in zip(datasets, [*datasets[1:], datasets[0]], strict=True):
        others = {"": tuple(images[0] for images in list(following.classes.values())[:EACH])}
        for shape in options.shapes:
            sampler = sampler_of(dataset, shape, options.queries, options.seed)
            if sampler is not None:
                kind = Kind(sampler, {KINDS: studied.images(others), SYNTHETIC: made})
                print(f"measure {dataset.name} {shape}", file=sys.stderr, flush=True)
                yield measure_kind(studied, kind, options.tasks)


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add, count = made.add_argument, partial(made.add_argument, type=int, metavar="N")
    add("checkpoint", type=Path, help="its folder, or that of universal.json")
    add("--data", type=Path, required=True, help="folder of npz files")
    add("--packs", nargs="+", default=PACKS, metavar="NAME", help="files in it (%(default)s)")
    add("--shapes", nargs="+", default=["5x1", "5x5"], metavar="WAYSxSHOTS")
    count("--tasks", default=100, help="of a data set and shape (%(default)s)")
    count("--queries", default=20, help="the most of a class (%(default)s)")
    count("--seed", default=0, help="seed of the tasks (%(default)s)")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    return run(TOPIC, options.out, lambda: list(_study(options)), tables)


if __name__ == "__main__":
    sys.exit(main())
