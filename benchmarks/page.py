"""Writes the benchmarks' tables into docs/performance.md.

    python -m benchmarks.page benchmarks/results/two-core-epyc/*.json

A table belongs between <!-- FOLDER/FILE TABLE --> and <!-- / -->: the file's folder, its name and
the table's; TABLE can also be `machine`, for what was measured on. In <!-- FOLDER goals --> goes
what all files of a folder say about our goals. With --check nothing is written, and a page that is
not what the files say is an error.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import adapt, export, memory, query, scaling, server, together
from benchmarks._goals import goals
from benchmarks._machine import ROOT
from benchmarks._results import Tables, load, machine_line

PAGE = ROOT / "docs" / "performance.md"
TABLES: Mapping[str, Tables] = {
    module.TOPIC: module.tables
    for module in (adapt, export, memory, query, scaling, server, together)
}


def filled(page: str, path: Path) -> str:
    """The page with the tables of this file.

    Raises:
        ValueError: the page has no block for it, or one for a table that it has not.
    """
    results = load(path)
    texts = {**TABLES[results.topic](results), "machine": machine_line(results)}
    return _put(page, f"{path.parent.name}/{path.stem}", texts)


def _put(page: str, name: str, texts: Mapping[str, str]) -> str:
    block = re.compile(rf"(<!-- {re.escape(name)} (\S+) -->\n).*?(<!-- / -->)", re.DOTALL)

    def text(match: re.Match[str]) -> str:
        if match[2] not in texts:
            raise ValueError(f"{name} has no table {match[2]}; it has {', '.join(texts)}")
        return f"{match[1]}{texts[match[2]]}\n{match[3]}"

    page, count = block.subn(text, page)
    if not count:
        raise ValueError(f"the page has no block for {name}")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE, help="%(default)s")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args(arguments)
    before = page = options.page.read_text(encoding="utf-8")
    for path in options.results:
        page = filled(page, path)
    for folder in {path.parent for path in options.results}:
        if f"<!-- {folder.name} goals -->" in page:
            stored = [load(path) for path in sorted(folder.glob("*.json"))]
            page = _put(page, folder.name, {"goals": goals(stored)})
    if options.check and page != before:
        sys.exit(f"{options.page} is not what the results say; run this without --check")
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
