"""Whether adapted cells are a task's own: how they differ, and whether similar tasks get similar.

The distance of two genotypes is the number of edges that differ. Where a task lies is how
much each feature of the frozen meta-network varies over its support images; tasks are the closer,
the smaller the Euclidean distance of these.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks._plans import BOTH, PROBE, RESEEDED
from benchmarks._results import Row, figure, table
from metanas.spec.genotype import CELL_KINDS, Genotype

Matrix = NDArray[np.float64]

RESAMPLES = 500
BINS = 8


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over pairs of tasks; the interval by bootstrap over tasks."""

    value: float
    low: float
    high: float


def cells(shape: str, find: Callable[[str, str], Row | None]) -> dict[str, str]:
    """The table and the sentences about cells."""
    both, again, frozen = (find(shape, name) for name in (BOTH, RESEEDED, PROBE))
    if both is None or again is None or frozen is None:
        return {"cells": "*Not measured yet.*", "cells-verdict": "*Not measured yet.*"}
    genotypes, others = genotypes_of(both), genotypes_of(again)
    apart = between_tasks(genotypes)
    pairs = apart[np.triu_indices(len(apart), 1)]
    moved = np.array(both["moved"], dtype=float)
    seeds = np.array([float(a.distance(b)) for a, b in zip(genotypes, others, strict=False)])
    header = ["two genotypes", "pairs", "differ, %", "edges, mean", "edges, most"]
    lines = [
        _line("adapted and meta", moved),
        _line("adapted to two tasks", pairs),
        _line("adapted to one task with two seeds", seeds),
    ]
    found = correlation(apart, embedding_distances(frozen))
    return {"cells": table(header, lines), "cells-verdict": _verdict(both, pairs, seeds, found)}


def _line(title: str, distances: NDArray[np.float64]) -> list[str]:
    share, mean = 100 * float((distances > 0).mean()), float(distances.mean())
    return [title, f"{len(distances):,}", figure(share), figure(mean), f"{distances.max():g}"]


def _verdict(
    both: Row, pairs: Matrix, seeds: NDArray[np.float64], found: Correlation | None
) -> str:
    edges = 2 * sum(len(both["genotypes"][0][kind]) for kind in CELL_KINDS)
    moved = 100 * float((np.array(both["moved"]) > 0).mean())
    count = len(both["genotypes"])
    text = (
        f"- A genotype has {edges} edges. {moved:.0f} % of the adapted ones differ from the "
        f"meta-genotype; {len(both['genotype'])} adaptations came to {count} "
        f"genotype{'s' * (count > 1)}."
    )
    if count == 1:
        return text + "\n- With one genotype for all tasks, no task has cells of its own."
    own = float(pairs.mean() - seeds.mean())
    text += (
        f"\n- Two tasks are {pairs.mean():.2f} edges apart on average, two seeds of one task "
        f"{seeds.mean():.2f}: {own:+.2f} edges are the task's own doing, the rest is chance."
    )
    if found is None:
        return (
            text + "\n- Cells do not differ enough to ask whether similar tasks get similar ones."
        )
    answer = "do" if found.low > 0 else "do not" if found.high < 0 else "cannot be said to"
    return text + (
        f"\n- Similar tasks **{answer}** get similar cells: the rank correlation of the distances "
        f"of tasks and of genotypes is {found.value:.2f} ({found.low:.2f} to {found.high:.2f})."
    )


def genotypes_of(row: Row) -> list[Genotype]:
    """The genotype of every episode."""
    kinds = [Genotype.from_json(json.dumps(kind)) for kind in row["genotypes"]]
    return [kinds[index] for index in row["genotype"]]


def between_tasks(genotypes: list[Genotype]) -> Matrix:
    """Edges in which each two differ."""
    known = list(dict.fromkeys(genotypes))
    table = np.array([[one.distance(other) for other in known] for one in known], dtype=float)
    index = [known.index(genotype) for genotype in genotypes]
    return table[np.ix_(index, index)]


def embedding_distances(row: Row) -> Matrix:
    """Euclidean distances of tasks, over their mean."""
    places = np.array(row["embedding"])
    squares = (places**2).sum(1)
    distances = np.sqrt((squares[:, None] + squares - 2 * places @ places.T).clip(0))
    mean: float = distances[np.triu_indices(len(distances), 1)].mean()
    return np.asarray(distances / (mean or 1.0))


def correlation(one: Matrix, other: Matrix) -> Correlation | None:
    """Between two distances of the same tasks; None if one of them hardly varies."""
    count = min(len(one), len(other))
    left, right = (_ranks(each[:count, :count]) for each in (one, other))
    random = np.random.default_rng(0)
    everyone = np.arange(count)
    draws = [random.integers(0, count, count) for _ in range(RESAMPLES)]
    value, *resampled = (_pearson(left, right, chosen) for chosen in (everyone, *draws))
    if not np.isfinite([value, *resampled]).all():
        return None
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Correlation(value, float(low), float(high))


def _ranks(distances: Matrix) -> Matrix:
    """Ranks of all distances between two, equal ones sharing their mean."""
    upper = np.triu_indices(len(distances), 1)
    _, where, counts = np.unique(distances[upper], return_inverse=True, return_counts=True)
    ranks = np.zeros_like(distances)
    ranks[upper] = (counts.cumsum() - (counts - 1) / 2)[where]
    return ranks + ranks.T


def _pearson(one: Matrix, other: Matrix, chosen: NDArray[np.int64]) -> float:
    """Over the pairs of chosen tasks, without those of a task and itself."""
    left, right = np.triu_indices(len(chosen), 1)
    left, right = chosen[left], chosen[right]
    apart = left != right
    x, y = one[left, right][apart], other[left, right][apart]
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def draw_cells(both: Row, frozen: Row, path: Path) -> None:
    """Draw how far genotypes are apart, by how far their tasks are."""
    apart, tasks = between_tasks(genotypes_of(both)), embedding_distances(frozen)
    count = min(len(apart), len(tasks))
    upper = np.triu_indices(count, 1)
    x, y = tasks[upper], apart[upper]
    groups = np.array_split(np.argsort(x, kind="stable"), min(BINS, len(x)))
    plot = Figure(figsize=(6, 3.2), layout="constrained")
    axes = plot.subplots()
    means = [float(y[group].mean()) for group in groups]
    distances = [x[group].mean() for group in groups]
    axes.plot(distances, means, "o-", color="#1f77b4", label="pairs of a group, mean")
    axes.axhline(float(y.mean()), color="#999999", linewidth=0.8, label="all pairs, mean")
    axes.legend(frameon=False, loc="lower right")
    axes.set(
        xlabel="distance of two tasks (of the mean distance)",
        ylabel="edges in which their cells differ",
        title=f"{len(x):,} pairs of {count} tasks, in {len(groups)} groups of equal size",
        ylim=(0, 1.1 * max(means) or 1),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": path.name}):  # without it the same figure differs each time
        plot.savefig(path, format="svg", metadata={"Date": None})
