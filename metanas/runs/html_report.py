"""A run as one page of HTML: no script, and nothing that is loaded from elsewhere.

Everything that comes from the run's files is escaped.
"""

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from itertools import pairwise
from typing import Any

from metanas import __version__
from metanas.runs.cell_diagram import cell_picture
from metanas.runs.charts import Chart, Line, draw
from metanas.runs.log import RunRecord, number, seconds_of
from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.training.config_file import to_toml
from metanas.util.formatting import duration, number_text

CELLS = {"normal": "Normal cell", "reduce": "Reduction cell"}
EXPLAINED = {
    "Validation accuracy": "Classes that training never sees, before any adaptation. The pruned "
    "network is what counts; the circle is the best one, which the checkpoint holds.",
    "Training loss": "Cross-entropy of the tasks' queries, over the steps of the inner loop.",
    "Training accuracy": "Of the same queries.",
    "Entropy of the alphas": "Mean over the edges, of the mixture at the temperature of a task's "
    "last step. 0 is a decided architecture.",
    "Candidates": "Operations that are still in the search, over all edges of both cells.",
    "Temperature": "Of a task's last step.",
    "Meta learning rates": "Step sizes of the outer loop.",
    "Time of an iteration": "Wall time, validation included.",
}


def page(run: RunRecord, cells: Sequence[tuple[int, Genotype]], now: datetime) -> str:
    """The page.

    cells: the architecture at some iterations, in order; the last one is shown large.
    """
    style = resources.files("metanas").joinpath("page.css").read_text(encoding="utf-8")
    name = escape(run.name)
    found = (_head(run, now), _charts(run), _validations(run), _cells(cells))
    body = "\n".join((*found, _settings(run), _resume(run), _versions(run, now)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: meta-training</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def charts_of(run: RunRecord) -> list[Chart]:
    """The charts for which the log has numbers."""

    def chart(
        title: str,
        unit: str,
        *lines: tuple[str, str, int],
        scale: float = 1.0,
        mark: tuple[int, float] | None = None,
    ) -> Chart:
        drawn = tuple(
            Line(name=name, points=run.curve(key), colour=colour) for key, name, colour in lines
        )
        return Chart(title=title, unit=unit, lines=drawn, scale=scale, mark=mark)

    charts = [
        chart(
            "Validation accuracy",
            "%",
            ("pruned", "pruned", 0),
            ("soft", "soft", 1),
            scale=100,
            mark=run.best(),
        ),
        chart("Training loss", "nats", ("loss", "loss", 0)),
        chart("Training accuracy", "%", ("accuracy", "accuracy", 0), scale=100),
        chart("Entropy of the alphas", "nats", ("entropy", "entropy", 2)),
        chart("Candidates", "operations", ("candidates", "candidates", 2)),
        chart("Temperature", "", ("temperature", "temperature", 2)),
        chart(
            "Meta learning rates",
            "",
            ("meta_lr_weights", "weights", 0),
            ("meta_lr_alphas", "alphas", 1),
        ),
        chart("Time of an iteration", "s", ("seconds", "seconds", 3)),
    ]
    return [chart for chart in charts if not chart.empty]


def _head(run: RunRecord, now: datetime) -> str:
    done, planned = run.iteration, run.iterations
    state = '<span class="state done">finished</span>'
    if not run.finished:
        share = f": {done / planned:.0%}" if planned else ""
        state = f'<span class="state">unfinished{share}</span>'
    width = 100 * min(1.0, done / planned) if planned else 0
    tiles = "".join(
        f'<div class="tile"><b>{value}</b><span>{what}</span></div>' for value, what in _tiles(run)
    )
    said = str(run.config.get("description") or run.card.get("description") or "")
    return (
        f'<div class="head"><h1>{escape(run.name)}</h1>{state}</div>'
        f'<p class="lead">{escape(said)}</p><p class="note">{_heard(run, now)}</p>'
        f'<div class="bar"><div style="width:{width:.1f}%"></div></div>'
        f'<div class="tiles">{tiles}</div>'
    )


def _heard(run: RunRecord, now: datetime) -> str:
    """When the run was last heard of, and what of its log could not be read."""
    parts = []
    stamps = run.curve("time")
    if stamps:
        last = datetime.fromtimestamp(stamps[-1][1], UTC)
        ago = duration(max(0.0, (now - last).total_seconds()))
        parts.append(f"Last line of the log: {last:%Y-%m-%d %H:%M} UTC, {ago} before this page.")
    if not run.records:
        parts.append("The log has no line yet.")
    if run.dropped:
        lines = "1 line" if run.dropped == 1 else f"{run.dropped} lines"
        parts.append(f"{lines} of the log, cut off or damaged, left out.")
    return " ".join(parts)


def _tiles(run: RunRecord) -> Iterable[tuple[str, str]]:
    best = run.best()
    if best:
        yield f"{best[1]:.1%}", f"best validation, pruned, at {number_text(best[0])}"
        soft = dict(run.curve("soft")).get(best[0])
        if soft is not None:
            gap = 100 * (soft - best[1])
            yield number_text(round(gap, 2)), "points soft over pruned, there"
    planned = f"of {number_text(run.iterations)} " if run.iterations else ""
    yield number_text(run.iteration), f"{planned}meta-iterations"
    stamps, seconds = run.curve("time"), sum(seconds_of(run))
    if seconds:
        # the log knows nothing of what was before its first line: as fast as the rest
        rate = (stamps[-1][0] - stamps[0][0]) / seconds
        yield duration(run.iteration / rate), "of training, pauses left out"
        yield number_text(float(f"{rate:.3g}")), "meta-iterations a second"


def _charts(run: RunRecord) -> str:
    figures = "".join(_figure(chart, run.iteration) for chart in charts_of(run))
    note = ""
    if figures and any(len(line.points) > 240 for c in charts_of(run) for line in c.lines):
        note = '<p class="note">Of long curves: means of neighbouring lines of the log, in a band '
        note += "from their 10th to their 90th percentile.</p>"
    return f'<h2>Curves</h2><div class="charts">{figures}</div>{note}' if figures else ""


def _figure(chart: Chart, iterations: int) -> str:
    shown = [line for line in chart.lines if line.points]
    legend = "".join(
        f'<span><i class="line{line.colour}"></i>{escape(line.name)}</span>'
        for line in shown
        if len(shown) > 1
    )
    if chart.mark:
        legend += '<span><i class="dot"></i>best</span>'
    return (
        f'<figure><header><h3>{escape(chart.title)}</h3><span class="legend">{legend}</span>'
        f"</header>{draw(chart, iterations)}"
        f"<figcaption>{EXPLAINED[chart.title]}</figcaption></figure>"
    )


def _cells(cells: Sequence[tuple[int, Genotype]]) -> str:
    if not cells:
        return ""
    iteration, genotype = cells[-1]
    shown = "".join(_cell(kind, genotype, None, iteration) for kind in CELL_KINDS)
    changed = [(at, now, before) for (_, before), (at, now) in pairwise(cells) if now != before]
    along = ""
    if changed:
        first = "".join(_cell(kind, cells[0][1], None, cells[0][0]) for kind in CELL_KINDS)
        rest = "".join(
            _cell(kind, now, before, at)
            for at, now, before in changed
            for kind in CELL_KINDS
            if now.cell(kind) != before.cell(kind)
        )
        times = "once" if len(changed) == 1 else f"{len(changed)} times"
        along = f"<details open><summary>Along the way: changed {times}</summary>"
        along += '<p class="note">What is new since the picture before is outlined.</p>'
        along += f'<div class="steps">{first}{rest}</div></details>'
    wide = " wide" if len(genotype.normal) > 3 else ""
    note = "What an adaptation begins with: at every node the best pair of inputs, with the best "
    note += "operation on each, by the meta-alphas. A dot is where a line is taken up."
    return (
        f'<h2>The cells at meta-iteration {number_text(iteration)}</h2><p class="note">{note}</p>'
        f'<div class="cells{wide}">{shown}</div>{along}'
    )


def _cell(kind: str, genotype: Genotype, before: Genotype | None, iteration: int) -> str:
    earlier = before.cell(kind) if before else ()
    title = f"{CELLS[kind]} at meta-iteration {iteration}"
    return (
        f"<figure><header><h3>{CELLS[kind]}</h3>"
        f'<span class="legend">at {number_text(iteration)}</span></header>'
        f"{cell_picture(genotype.cell(kind), title, earlier)}</figure>"
    )


def _settings(run: RunRecord) -> str:
    sections = {k: v for k, v in run.config.items() if isinstance(v, Mapping)}
    if not sections:
        return ""
    cards = "".join(
        f'<div class="card"><h3>{escape(name)}</h3>{_table(values)}</div>'
        for name, values in sections.items()
    )
    return f'<h2>Configuration</h2><div class="settings">{cards}</div>'


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{_breaking(_text(value))}</td></tr>"
        for key, value in values.items()
    )
    return f"<table>{rows}</table>"


def _breaking(text: str) -> str:
    """Escaped; a path that is too long goes on in the next line after a slash."""
    return escape(text).replace("/", "/<wbr>")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    found = number(value)
    return str(value) if found is None else number_text(found)


def _resume(run: RunRecord) -> str:
    out = shlex.quote(str(run.folder))
    parts = ["<h2>Going on</h2>"]
    if run.snapshot is None:
        parts.append('<p class="note">There is no readable snapshot to go on from.</p>')
    else:
        where = number_text(run.snapshot)
        parts.append(f'<p class="note">The snapshot is of meta-iteration {where}.</p>')
        more = " --set train.iterations=…" if run.finished else ""
        command = f"python -m metanas train config.toml --resume --out {out}{more}"
        parts.append(f"<pre>{escape(command)}</pre>")
    if run.config:
        parts.append("<details><summary>config.toml: the resolved configuration</summary>")
        parts.append(f"<pre>{escape(to_toml(run.config))}</pre></details>")
    return "".join(parts)


def _validations(run: RunRecord) -> str:
    """The validations as a table."""
    best, soft, loss = run.best(), dict(run.curve("soft")), dict(run.curve("loss"))
    if best is None:
        return ""
    rows = "".join(
        f"<tr{' class=top' if at == best[0] else ''}><td>{number_text(at)}</td>"
        f"<td>{value:.2%}</td><td>{_share(soft.get(at))}</td><td>{loss.get(at, 0.0):.4f}</td></tr>"
        for at, value in run.curve("pruned")
    )
    return (
        '<details><summary>All validations</summary><div class="card"><table class="numbers">'
        "<tr><th>meta-iteration</th><th>pruned</th><th>soft</th><th>training loss</th></tr>"
        f"{rows}</table></div></details>"
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _versions(run: RunRecord, now: datetime) -> str:
    raw = run.card.get("provenance")
    provenance = {str(k): v for k, v in raw.items()} if isinstance(raw, Mapping) else {}
    table = f'<h2>The best checkpoint</h2><div class="card">{_table(provenance)}</div>'
    return (
        (table if provenance else "")
        + f'<p class="note" style="margin-top:28px">Made {now:%Y-%m-%d %H:%M} UTC by metanas '
        f"{escape(__version__)} on Python {platform.python_version()}.</p>"
    )
