"""Fill the tables of the documentation from the stored results.

    python -m studies.page

A page has blocks `<!-- FOLDER/FILE TABLE -->` ... `<!-- / -->`. FOLDER/FILE is a JSON file below
`benchmarks/results` or `studies/results`. TABLE is one of its tables, or `machine`. With --check
nothing is written, and a page that differs from the results is an error.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import (
    adapt,
    export,
    gpu,
    inference,
    memory,
    overload,
    query,
    reliability,
    scaling,
    server,
    together,
    weak_scaling,
    worst_memory,
)
from benchmarks.harness.machine import ROOT
from benchmarks.harness.results import Tables, load
from benchmarks.harness.tables import machine_line
from studies import (
    accuracy,
    adaptation,
    budgets,
    domains,
    precision,
    quality,
    shipped,
    variants,
    weakest,
)

PERFORMANCE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "results.md"
GUIDE, RELIABILITY = ROOT / "docs" / "user-guide.md", ROOT / "docs" / "reliability.md"
PAGES = (
    PERFORMANCE,
    RESULTS,
    GUIDE,
    RELIABILITY,
    *sorted(ROOT.glob("meta_checkpoints/*/README.md")),
)
FOLDERS = (ROOT / "benchmarks" / "results", ROOT / "studies" / "results")
TOPICS = (
    reliability, worst_memory,
    accuracy, adapt, adaptation, budgets, domains, export, gpu, inference, memory, overload,
    precision, quality, query, scaling, server, shipped, together, variants, weak_scaling,
    weakest,
)  # fmt: skip
TABLES: Mapping[str, Tables] = {module.TOPIC: module.tables for module in TOPICS}
BLOCK = re.compile(r"(<!-- (\S+) (\S+) -->\n).*?(<!-- / -->)", re.DOTALL)


def filled(page: str, folders: Sequence[Path]) -> str:
    """Fill all blocks of a page.

    Raises:
        ValueError: there is no such file, or it has no such table.
    """
    return BLOCK.sub(partial(_block, folders), page)


def _block(folders: Sequence[Path], match: re.Match[str]) -> str:
    return f"{match[1]}{text_of(match[2], match[3], folders)}\n{match[4]}"


def text_of(name: str, table: str, folders: Sequence[Path]) -> str:
    """Make the text of one block."""
    paths = [path for folder in folders if (path := folder / f"{name}.json").exists()]
    if not paths:
        raise ValueError(f"no results {name}.json below {', '.join(map(str, folders))}")
    results = load(paths[0])
    if table == "machine":
        return machine_line(results.machine)
    made = TABLES[results.topic](results)
    if table not in made:
        raise ValueError(f"{name} has no table {table}; it has {', '.join(made)}")
    return made[table]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES, help="all by default")
    parser.add_argument("--results", type=Path, nargs="+", default=FOLDERS, metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args(arguments)
    for page in options.pages:
        before = page.read_text(encoding="utf-8")
        after = filled(before, options.results)
        if not options.check:
            page.write_text(after, encoding="utf-8")
        elif after != before:
            sys.exit(f"{page} differs from the results; run this without --check")


if __name__ == "__main__":
    main()
