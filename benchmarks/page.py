"""Writes the benchmarks' tables into docs/performance.md, and the studies' into docs/results.md.

What the shipped checkpoints come to goes into docs/results.md, README.md and their cards.

    python -m benchmarks.page benchmarks/results/*/*.json

A table belongs between <!-- FOLDER/FILE TABLE --> and <!-- / -->: the file's folder, its name and
the table's; TABLE can also be `machine`, for what was measured on. In <!-- FOLDER goals --> goes
what all files of a folder say about our goals. With --check
nothing is written, and a page that is not what the files say is an error.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import (
    accuracy,
    adapt,
    export,
    gpu,
    memory,
    query,
    scaling,
    server,
    shipped,
    study,
    together,
    variants,
    weak_scaling,
)
from benchmarks._goals import goals
from benchmarks._machine import ROOT
from benchmarks._results import LOCAL, Tables, load, machine_line

PAGE = ROOT / "docs" / "performance.md"
TABLES: Mapping[str, Tables] = {
    module.TOPIC: module.tables
    for module in (
        accuracy,
        adapt,
        export,
        gpu,
        memory,
        query,
        scaling,
        server,
        shipped,
        study,
        together,
        variants,
        weak_scaling,
    )
}
RESULTS = ROOT / "docs" / "results.md"
CARDS = tuple(sorted(ROOT.glob("meta_checkpoints/*/README.md")))
PAGES: Mapping[str, Sequence[Path]] = {
    study.TOPIC: (RESULTS,),
    variants.TOPIC: (RESULTS,),
    shipped.TOPIC: (RESULTS, ROOT / "README.md", *CARDS),
}
"""Where a topic's tables go, if not into `PAGE`: wherever there is a block for them."""


def filled(page: str, path: Path) -> str:
    """The page with the tables of this file.

    Raises:
        ValueError: the page has no block for it, or one for a table that it has not.
    """
    results = load(path)
    texts = {
        **TABLES[results.topic](results),
        "machine": machine_line(results),
    }
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
    parser.add_argument("--page", type=Path, help="the topic's page, unless another is named")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args(arguments)
    by_page: dict[Path, list[Path]] = {}
    # where everybody's own runs go: the pages have no place for them
    for path in (path for path in options.results if path.parent.name != LOCAL.name):
        for page in [options.page] if options.page else _homes(path):
            by_page.setdefault(page, []).append(path)
    for page, paths in by_page.items():
        text = _page(page.read_text(encoding="utf-8"), paths)
        if not options.check:
            page.write_text(text, encoding="utf-8")
        elif text != page.read_text(encoding="utf-8"):
            sys.exit(f"{page} is not what the results say; run this without --check")


def _homes(path: Path) -> Sequence[Path]:
    """The pages that have a block for this file, or else the first that should have."""
    pages = PAGES.get(load(path).topic, (PAGE,))
    begins = f"<!-- {path.parent.name}/{path.stem} "
    return [page for page in pages if begins in page.read_text(encoding="utf-8")] or pages[:1]


def _page(text: str, paths: Sequence[Path]) -> str:
    """The page with what all these files say."""
    for path in paths:
        text = filled(text, path)
    for folder in {path.parent for path in paths}:
        if f"<!-- {folder.name} goals -->" in text:
            stored = [load(path) for path in sorted(folder.glob("*.json"))]
            text = _put(text, folder.name, {"goals": goals(stored)})
    return text


if __name__ == "__main__":
    main()
