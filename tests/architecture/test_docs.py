"""Check the documents: links lead to files, named tests and options exist."""

import re
from pathlib import Path

import pytest

from docs.options import page
from tests.architecture.sources import ROOT, label

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", *(ROOT / "docs").rglob("*.md")]
GENERATED = ROOT / "docs" / "configuration.md"
MOST_WORDS = 23_000
"""Words that people write. Programs write the tables of results and options, and of keys."""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_tables_are_whole(path: Path) -> None:
    """The second line of a table is a rule."""
    code = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    text = code.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"(?:\A|\n(?!\|)[^\n]*\n)\|[^\n]*\n([^\n]*)", text)
    assert [line for line in heads if not re.fullmatch(r"[|:\- ]+", line)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_make_commands_exist(path: Path) -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert {name for name in named if f"\n{name}:" not in MAKEFILE} == set()


def test_tests_that_documents_name_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", "".join(p.read_text("utf-8") for p in DOCUMENTS)))
    sources = "".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_the_table_of_the_options_of_the_server_is_generated() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert text == page(), "run: python docs/options.py"


def test_figures_of_the_readme_are_measured() -> None:
    """Each accuracy of the README stands in a table that a program filled."""
    measured = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    figures = re.findall(r"[+-]?[\d.]+ ± [\d.]+", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert figures
    assert [figure for figure in figures if figure not in measured] == []


def test_documents_stay_short() -> None:
    made = re.compile(
        r"<!-- (?!/ )[^>]*-->\n.*?<!-- / -->|<!-- options:.*?<!-- end of options -->", re.DOTALL
    )
    written = [made.sub("", page.read_text(encoding="utf-8")) for page in {*PAGES} - {GENERATED}]
    words = [word for text in written for word in text.split() if word.strip("|-:")]
    assert len(words) <= MOST_WORDS


@pytest.mark.parametrize("path", sorted({*PAGES} - {GENERATED}), ids=label)
def test_paragraphs_are_not_wrapped(path: Path) -> None:
    """A paragraph is one line, so a change of a word is a change of a line."""
    code = re.compile(r"^```.*?^```|^:::.*?(?=^\S)|<!--.*?-->", re.MULTILINE | re.DOTALL)
    text = code.sub("", path.read_text(encoding="utf-8"))
    assert re.findall(r"^[A-Za-z*`].*\n(?=[A-Za-z(`*])", text, re.MULTILINE) == []
