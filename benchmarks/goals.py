"""Goals of time and memory, and the stored results that reach them."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import figure, table
from benchmarks.harness.timing import ratio


class Figure(NamedTuple):
    """A measured figure: the value, the number of runs, and a 95 % interval if there is one."""

    value: float
    runs: int
    interval: tuple[float, float] | None = None


Figures = Callable[[Sequence[Row]], Iterable[Figure]]
"""From all rows of a case to its figures, such as one for each number of threads."""


def medians(values: Callable[[Row], Sequence[float]]) -> Figures:
    """Take the median of some values of each row."""
    return lambda rows: [Figure(median(values(row)), len(values(row))) for row in rows]


whole = medians(lambda row: row["seconds"]["product"]["whole"])
alone = medians(lambda row: row["alone"])
many = medians(lambda row: row["many"])
exported = medians(lambda row: [1000 * each["together"] for each in row["direct"]])


def peak(rows: Sequence[Row]) -> Iterable[Figure]:
    """Return the gigabytes of a whole process."""
    return [Figure(row["memory"]["product"]["peak"] / 1e9, 1) for row in rows]


def faster(rows: Sequence[Row]) -> Iterable[Figure]:
    """Return the time of the textbook's search over the time of ours."""
    for row in (row for row in rows if "textbook" in row["seconds"]):
        theirs, ours = (row["seconds"][name]["adapt"] for name in ("textbook", "product"))
        times = ratio(theirs, ours)
        yield Figure(times.value, len(theirs), (times.low, times.high))


def overhead(workers: int) -> Figures:
    """Measure the milliseconds that a server with this number of workers adds for one caller."""

    def added(row: Row) -> list[float]:
        pairs = zip(row["remote"], row["local"], strict=True)
        return [1000 * (remote - local) for remote, local in pairs]

    def of_workers(rows: Sequence[Row]) -> Iterable[Figure]:
        return medians(added)([r for r in rows if r["workers"] == workers and "remote" in r])

    return of_workers


def sharing(workers: int) -> Figures:
    """Measure the rate of 16 clients over the rate of one, with this number of workers."""

    def against_one(rows: Sequence[Row]) -> Iterable[Figure]:
        chosen = [row for row in rows if row["workers"] == workers and "clients" in row]
        loads = {row["clients"]: row for row in chosen}
        if {1, 16} <= set(loads):
            one, other = (len(loads[n]["latencies"]) / loads[n]["whole"] for n in (1, 16))
            yield Figure(other / one, len(loads[16]["latencies"]))

    return against_one


def growth(rows: Sequence[Row]) -> Iterable[Figure]:
    """Return the MiB that a worker gains after its first 50 adaptations."""
    for threads in {row["threads"] for row in rows}:
        of_threads = [row for row in rows if row["threads"] == threads]
        for settled in (row for row in of_threads if row["adaptations"] == 50):
            last = of_threads[-1]
            yield Figure((last["workers"] - settled["workers"]) / 2**20, last["adaptations"])


def front(rows: Sequence[Row]) -> Iterable[Figure]:
    """Return the most MiB of a server's front."""
    sizes = [Figure(row["front"] / 2**20, row["adaptations"]) for row in rows]
    return [max(sizes)] if sizes else []


class Goal(NamedTuple):
    """A figure to reach. The best of several numbers of threads counts."""

    title: str
    bound: str
    """`≤` or `≥`."""
    limit: float
    unit: str
    topic: str
    case: str | None
    figures: Figures


SMALL = "shipped-28-5w1s"
GOALS = tuple(
    Goal(*each)
    for each in (
        ("5-way 1-shot, shipped", "≤", 1, "s", "adapt", SMALL, whole),
        ("20-way 1-shot, shipped", "≤", 2, "s", "adapt", "shipped-28-20w1s", whole),
        ("20-way 5-shot, shipped", "≤", 5, "s", "adapt", "shipped-28-20w5s", whole),
        ("5-way 1-shot, paper's network, 84×84", "≤", 15, "s", "adapt", "paper-84-5w1s", whole),
        ("5-way 5-shot, paper's network, 84×84", "≤", 45, "s", "adapt", "paper-84-5w5s", whole),
        ("… its memory", "≤", 2, "GB", "adapt", "paper-84-5w5s", peak),
        ("search against textbook, 28×28", "≥", 4, "times", "adapt", "paper-28-5w1s", faster),
        ("… at 84×84", "≥", 4, "times", "adapt", "paper-84-5w1s", faster),
        ("overhead of a server, one worker", "≤", 50, "ms", "server", SMALL, overhead(1)),
        ("… two workers", "≤", 50, "ms", "server", SMALL, overhead(2)),
        ("16 clients against one, one worker", "≥", 2, "times", "server", SMALL, sharing(1)),
        ("… two workers", "≥", 2, "times", "server", SMALL, sharing(2)),
        ("worker's growth after 50 adaptations", "≤", 5, "MiB", "memory", None, growth),
        ("front's memory", "≤", 150, "MiB", "memory", None, front),
        ("export and check, each on its own", "≤", 30, "ms", "export", SMALL, exported),
        ("on a GPU: 5-way 1-shot, shipped", "≤", 0.15, "s", "gpu", None, alone),
        ("… 64 together", "≤", 2, "s", "gpu", None, many),
    )
)


def goals(stored: Iterable[Results]) -> str:
    """Make the table of all goals from the results of one machine."""
    rows = [(results.topic, row) for results in stored for row in results.rows]
    lines = []
    for goal in GOALS:
        chosen = [
            row
            for topic, row in rows
            if topic == goal.topic and goal.case in (None, row.get("case"))
        ]
        lines.append(_line(goal, list(goal.figures(chosen))))
    return table(["", "goal", "measured", "runs", "reached"], lines)


def _line(goal: Goal, figures: Sequence[Figure]) -> list[str]:
    target = f"{goal.bound} {goal.limit:g} {goal.unit}"
    if not figures:
        return [goal.title, target, "not measured", "", ""]
    best = (max if goal.bound == "≥" else min)(figures, key=lambda each: each.value)
    measured = f"{figure(best.value)} {goal.unit}"
    if best.interval:
        low, high = map(figure, best.interval)
        measured += f" ({low} to {high})"
    return [goal.title, target, measured, str(best.runs), _reached(goal, best)]


def _reached(goal: Goal, best: Figure) -> str:
    """Compare a figure with its goal; it is unclear where the interval holds the limit."""
    reached = [
        value >= goal.limit if goal.bound == "≥" else value <= goal.limit
        for value in best.interval or (best.value,)
    ]
    if all(reached):
        return "yes"
    return "unclear" if any(reached) else "no"
