"""Pages are filled from stored results, and are what the results say."""

import re
from pathlib import Path

import pytest

from benchmarks import adapt, gpu, server
from benchmarks.harness.results import Results, save
from studies import (
    accuracy,
    adaptation,
    budgets,
    domains,
    page,
    precision,
    quality,
    shipped,
    variants,
    weakest,
)

MACHINE = {
    "processor": "P", "cores": 2, "load": 0.1, "gpu": None,
    "torch": "2", "onnxruntime": "1", "revision": "r",
}  # fmt: skip
ROWS = [{"threads": 1, "adaptations": 50, "workers": 2**20 * 300, "front": 2**20 * 60}]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results."""
    save(Results("memory", MACHINE, ROWS), tmp_path / "results" / "box" / "memory.json")
    return tmp_path / "results"


def test_a_page_gets_the_tables_and_is_checked_against_them(tmp_path: Path, results: Path) -> None:
    written = tmp_path / "page.md"
    blocks = [f"<!-- box/memory {name} -->\n<!-- / -->" for name in ("growth", "machine")]
    written.write_text("\n\n".join(["# Page", *blocks, "End.\n"]), encoding="utf-8")
    arguments = [str(written), "--results", str(results)]
    with pytest.raises(SystemExit, match="run this without --check"):
        page.main([*arguments, "--check"])
    page.main(arguments)
    page.main([*arguments, "--check"])
    text = written.read_text(encoding="utf-8")
    assert "| 50          |" in text
    assert "P, 2 cores, load 0.1 at the start" in text
    assert text.startswith("# Page\n")
    assert text.endswith("<!-- / -->\n\nEnd.\n")


@pytest.mark.parametrize("block", ["box/time growth", "box/memory shrinkage"])
def test_a_block_without_a_table_is_an_error(results: Path, block: str) -> None:
    with pytest.raises(ValueError, match=r"no results box/time|no table shrinkage"):
        page.filled(f"<!-- {block} -->\n<!-- / -->", [results])


def blocks() -> list[list[str]]:
    text = "".join(path.read_text(encoding="utf-8") for path in page.PAGES)
    return [block.split() for block in re.findall(r"<!-- (\S+/\S+ \S+) -->", text)]


def test_every_table_of_times_says_its_machine() -> None:
    text = page.PERFORMANCE.read_text(encoding="utf-8")
    names = re.findall(r"<!-- (\S+/\S+) (\S+) -->", text)
    assert {name for name, _ in names} == {name for name, table in names if table == "machine"}


def test_all_stored_results_are_on_the_pages_and_the_pages_say_the_same() -> None:
    paths = [path for folder in page.FOLDERS for path in folder.glob("*/*.json")]
    stored = {path for path in paths if path.parent.name != "local"}
    assert {name for name, _ in blocks()} == {f"{p.parent.name}/{p.stem}" for p in stored}
    page.main(["--check"])


MODULES = (
    *(accuracy, adapt, adaptation, budgets, domains, gpu, page, quality, server, shipped),
    *(precision, variants, weakest),
)
COMMAND = re.compile(r"^python -m (?:benchmarks|studies)\.(\w+)(.*)$", re.MULTILINE)


def test_documented_commands_have_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    mains = {module.__name__.rpartition(".")[2]: module.main for module in MODULES}
    text = "".join(path.read_text(encoding="utf-8") for path in page.PAGES[:3])
    commands = COMMAND.findall(text)
    assert commands
    for name, arguments in commands:
        with pytest.raises(SystemExit, match="0"):
            mains[name](["--help"])
        shown, flags = capsys.readouterr().out, re.findall(r"(?<!\S)--[a-z-]+", arguments)
        assert [flag for flag in flags if flag not in shown] == []
