"""What we want to reach, and what the stored results say about it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from benchmarks import accuracy
from benchmarks._measure import ratio
from benchmarks._results import Results, Row, figure, table

Rows = Mapping[str, Sequence[Row]]
"""Topic -> the rows of all stored results of one machine."""


class Figure(NamedTuple):
    """What was measured."""

    value: float
    runs: int
    """Of how many it is the median, or the mean."""
    interval: tuple[float, float] | None = None
    """Of 95 %, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure to reach. Where several numbers of threads were measured, the best counts."""

    title: str
    limit: float
    unit: str
    figures: Callable[[Rows], Iterable[Figure]]
    more: bool = False
    """Whether more is better."""
    lenient: bool = False
    """Whether it suffices that the interval reaches the limit."""

    def row(self, rows: Rows) -> list[str]:
        """A row of the table."""
        target = f"{'≥' if self.more else '≤'} {self.limit:g} {self.unit}"
        found = list(self.figures(rows))
        if not found:
            return [self.title, target, "not measured", "", ""]
        best = (max if self.more else min)(found, key=lambda each: each.value)
        measured = f"{figure(best.value)} {self.unit}"
        if best.interval:
            low, high = map(figure, best.interval)
            measured += f" ({low} to {high})"
        return [self.title, target, measured, str(best.runs), self._verdict(best)]

    def _verdict(self, found: Figure) -> str:
        """Whether it is reached; "unclear" where the interval holds both answers."""
        reached = [
            value >= self.limit if self.more else value <= self.limit
            for value in found.interval or (found.value,)
        ]
        if all(reached) or (self.lenient and any(reached)):
            return "yes"
        return "unclear" if any(reached) else "no"


def _median(values: Sequence[float]) -> Figure:
    return Figure(median(values), len(values))


def _whole(case: str) -> Callable[[Rows], Iterable[Figure]]:
    return lambda rows: [_median(row["seconds"]["product"]["whole"]) for row in _of(rows, case)]


def _peak(case: str) -> Callable[[Rows], Iterable[Figure]]:
    return lambda rows: [
        Figure(row["memory"]["product"]["peak"] / 1e9, 1) for row in _of(rows, case)
    ]


def _faster(case: str) -> Callable[[Rows], Iterable[Figure]]:
    def times(rows: Rows) -> Iterable[Figure]:
        for row in _of(rows, case):
            if "textbook" in row["seconds"]:
                theirs, ours = (row["seconds"][name]["adapt"] for name in ("textbook", "product"))
                found = ratio(theirs, ours)
                yield Figure(found.value, len(theirs), (found.low, found.high))

    return times


def _of(rows: Rows, case: str, topic: str = "adapt") -> list[Row]:
    return [row for row in rows.get(topic, ()) if row["case"] == case]


def _served(rows: Rows, workers: int) -> list[Row]:
    return [row for row in _of(rows, "shipped-28-5w1s", "server") if row["workers"] == workers]


def _overhead(workers: int) -> Callable[[Rows], Iterable[Figure]]:
    def added(rows: Rows) -> Iterable[Figure]:
        for row in _served(rows, workers):
            if "remote" in row:
                pairs = zip(row["remote"], row["local"], strict=True)
                yield _median([1000 * (remote - local) for remote, local in pairs])

    return added


def _company(workers: int) -> Callable[[Rows], Iterable[Figure]]:
    """Adaptations a second of 16 clients against those of one, with as many workers."""

    def against_one(rows: Rows) -> Iterable[Figure]:
        rates = {
            row["clients"]: Figure(_rate(row), len(row["latencies"]))
            for row in _served(rows, workers)
            if "clients" in row
        }
        if {1, 16} <= set(rates):
            yield Figure(rates[16].value / rates[1].value, rates[16].runs)

    return against_one


def _rate(row: Row) -> float:
    adaptations: int = len(row["latencies"])
    return adaptations / float(row["whole"])


def _growth(rows: Rows) -> Iterable[Figure]:
    for threads in {row["threads"] for row in rows.get("memory", ())}:
        own = [row for row in rows["memory"] if row["threads"] == threads]
        settled = [row["workers"] for row in own if row["adaptations"] == 50]
        if settled:
            grown = own[-1]["workers"] - settled[0]
            yield Figure(grown / 2**20, own[-1]["adaptations"])


def _front(rows: Rows) -> Iterable[Figure]:
    fronts = [Figure(row["front"] / 2**20, row["adaptations"]) for row in rows.get("memory", ())]
    return [max(fronts)] if fronts else []


def _export(rows: Rows) -> Iterable[Figure]:
    for row in _of(rows, "shipped-28-5w1s", "export"):
        yield _median([1000 * run["together"] for run in row["direct"]])


def _accuracy(rows: Rows) -> Iterable[Figure]:
    for row in _of(rows, "omniglot-5w1s", accuracy.TOPIC):
        found = accuracy.difference_of(row)
        mean, wide = 100 * found.difference.mean, 100 * found.difference.interval
        yield Figure(mean, found.episodes, (mean - wide, mean + wide))


def _on_gpu(jobs: str) -> Callable[[Rows], Iterable[Figure]]:
    return lambda rows: [_median(row[jobs]) for row in rows.get("gpu", ())]


GOALS = (
    Goal(title="5-way 1-shot, shipped", limit=1, unit="s", figures=_whole("shipped-28-5w1s")),
    Goal(title="20-way 1-shot, shipped", limit=2, unit="s", figures=_whole("shipped-28-20w1s")),
    Goal(title="20-way 5-shot, shipped", limit=5, unit="s", figures=_whole("shipped-28-20w5s")),
    Goal(
        title="5-way 1-shot, paper's network, 84×84",
        limit=15,
        unit="s",
        figures=_whole("paper-84-5w1s"),
    ),
    Goal(
        title="5-way 5-shot, paper's network, 84×84",
        limit=45,
        unit="s",
        figures=_whole("paper-84-5w5s"),
    ),
    Goal(title="… its memory", limit=2, unit="GB", figures=_peak("paper-84-5w5s")),
    Goal(
        title="search steps against the textbook's, paper's network, 28×28",
        limit=4,
        unit="times",
        figures=_faster("paper-28-5w1s"),
        more=True,
    ),
    Goal(
        title="… at 84×84",
        limit=4,
        unit="times",
        figures=_faster("paper-84-5w1s"),
        more=True,
    ),
    Goal(
        title="5-way 1-shot's accuracy less that of 100 steps, up to its interval",
        limit=0,
        unit="points",
        figures=_accuracy,
        more=True,
        lenient=True,
    ),
    Goal(
        title="what a server of one worker adds for one caller",
        limit=50,
        unit="ms",
        figures=_overhead(1),
    ),
    Goal(title="… of two workers", limit=50, unit="ms", figures=_overhead(2)),
    Goal(
        title="16 clients against one, one worker",
        limit=2,
        unit="times",
        figures=_company(1),
        more=True,
    ),
    Goal(
        title="… two workers",
        limit=2,
        unit="times",
        figures=_company(2),
        more=True,
    ),
    Goal(title="worker's growth after 50 adaptations", limit=5, unit="MiB", figures=_growth),
    Goal(title="front's memory", limit=150, unit="MiB", figures=_front),
    Goal(title="export and check, each on its own", limit=30, unit="ms", figures=_export),
    Goal(title="on a GPU: 5-way 1-shot, shipped", limit=0.15, unit="s", figures=_on_gpu("alone")),
    Goal(title="… 64 together", limit=2, unit="s", figures=_on_gpu("many")),
)


def goals(stored: Iterable[Results]) -> str:
    """The table of what one machine's results say of every goal that they know of."""
    rows: dict[str, list[Row]] = {}
    for results in stored:
        rows.setdefault(results.topic, []).extend(results.rows)
    lines = [goal.row(rows) for goal in GOALS]
    return table(["", "goal", "measured", "runs", "reached"], lines)
