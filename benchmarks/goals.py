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


def _median(values: Sequence[float]) -> Figure:
    return Figure(median(values), len(values))


def whole(rows: Sequence[Row]) -> Iterable[Figure]:
    """Seconds of a whole adaptation."""
    return [_median(row["seconds"]["product"]["whole"]) for row in rows]


def peak(rows: Sequence[Row]) -> Iterable[Figure]:
    """Gigabytes of a whole process."""
    return [Figure(row["memory"]["product"]["peak"] / 1e9, 1) for row in rows]


def faster(rows: Sequence[Row]) -> Iterable[Figure]:
    """Times that the search is faster than the textbook's."""
    for row in (row for row in rows if "textbook" in row["seconds"]):
        theirs, ours = (row["seconds"][name]["adapt"] for name in ("textbook", "product"))
        times = ratio(theirs, ours)
        yield Figure(times.value, len(theirs), (times.low, times.high))


def overhead(workers: int) -> Figures:
    """Milliseconds that a server of so many workers adds for one caller."""

    def added(rows: Sequence[Row]) -> Iterable[Figure]:
        for row in (row for row in rows if row["workers"] == workers and "remote" in row):
            pairs = zip(row["remote"], row["local"], strict=True)
            yield _median([1000 * (remote - local) for remote, local in pairs])

    return added


def sharing(workers: int) -> Figures:
    """Rate of 16 clients over the rate of one, with so many workers."""

    def against_one(rows: Sequence[Row]) -> Iterable[Figure]:
        many = {
            row["clients"]: row for row in rows if row["workers"] == workers and "clients" in row
        }
        if {1, 16} <= set(many):
            one, other = (len(many[n]["latencies"]) / many[n]["whole"] for n in (1, 16))
            yield Figure(other / one, len(many[16]["latencies"]))

    return against_one


def growth(rows: Sequence[Row]) -> Iterable[Figure]:
    """MiB that a worker gains after its first 50 adaptations."""
    for threads in {row["threads"] for row in rows}:
        of_threads = [row for row in rows if row["threads"] == threads]
        for settled in (row for row in of_threads if row["adaptations"] == 50):
            last = of_threads[-1]
            yield Figure((last["workers"] - settled["workers"]) / 2**20, last["adaptations"])


def front(rows: Sequence[Row]) -> Iterable[Figure]:
    """Most MiB of a server's front."""
    sizes = [Figure(row["front"] / 2**20, row["adaptations"]) for row in rows]
    return [max(sizes)] if sizes else []


def exported(rows: Sequence[Row]) -> Iterable[Figure]:
    """Milliseconds of export and check."""
    return [_median([1000 * each["together"] for each in row["direct"]]) for row in rows]


def on_gpu(jobs: str) -> Figures:
    """Seconds on a GPU, of a task alone or of many."""
    return lambda rows: [_median(row[jobs]) for row in rows]


class Goal(NamedTuple):
    """A figure to reach. Where several numbers of threads were measured, the best counts."""

    title: str
    bound: str
    """`≤` or `≥`."""
    limit: float
    unit: str
    topic: str
    case: str | None
    figures: Figures


GOALS = tuple(
    Goal(*each)
    for each in (
        ("5-way 1-shot, shipped", "≤", 1, "s", "adapt", "shipped-28-5w1s", whole),
        ("20-way 1-shot, shipped", "≤", 2, "s", "adapt", "shipped-28-20w1s", whole),
        ("20-way 5-shot, shipped", "≤", 5, "s", "adapt", "shipped-28-20w5s", whole),
        ("5-way 1-shot, paper's network, 84×84", "≤", 15, "s", "adapt", "paper-84-5w1s", whole),
        ("5-way 5-shot, paper's network, 84×84", "≤", 45, "s", "adapt", "paper-84-5w5s", whole),
        ("… its memory", "≤", 2, "GB", "adapt", "paper-84-5w5s", peak),
        (
            "search steps against the textbook's, paper's network, 28×28",
            "≥", 4, "times", "adapt", "paper-28-5w1s", faster,
        ),
        ("… at 84×84", "≥", 4, "times", "adapt", "paper-84-5w1s", faster),
        (
            "what a server of one worker adds for one caller",
            "≤", 50, "ms", "server", "shipped-28-5w1s", overhead(1),
        ),
        ("… of two workers", "≤", 50, "ms", "server", "shipped-28-5w1s", overhead(2)),
        (
            "16 clients against one, one worker",
            "≥", 2, "times", "server", "shipped-28-5w1s", sharing(1),
        ),
        ("… two workers", "≥", 2, "times", "server", "shipped-28-5w1s", sharing(2)),
        ("worker's growth after 50 adaptations", "≤", 5, "MiB", "memory", None, growth),
        ("front's memory", "≤", 150, "MiB", "memory", None, front),
        (
            "export and check, each on its own",
            "≤", 30, "ms", "export", "shipped-28-5w1s", exported,
        ),
        ("on a GPU: 5-way 1-shot, shipped", "≤", 0.15, "s", "gpu", None, on_gpu("alone")),
        ("… 64 together", "≤", 2, "s", "gpu", None, on_gpu("many")),
    )
)  # fmt: skip


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
