"""Rules about the shape of the packages: few flat modules, small packages, plain first lines."""

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT, all_modules, label, tree

MOST_FLAT = 8
FEWEST, MOST = 3, 12
MOST_LINES = 400
QUESTION = re.compile(r"(What|Whatever|Who|Whoever|Whether|Which|How|Where)\b")


def packages_of(name: str) -> list[Path]:
    """The packages inside the package of a distribution; those of the contract are generated."""
    if name == "metanas_protos":
        return []
    return sorted(path.parent for path in PACKAGES[name].glob("*/__init__.py"))


def files() -> list[Path]:
    """All hand-written Python files of the repository, tests and examples included."""
    folders = ("tests", "examples", "docker", "deploy")
    return all_modules() + sorted(path for each in folders for path in (ROOT / each).rglob("*.py"))


def test_the_core_has_few_flat_modules() -> None:
    assert len(list(PACKAGES["metanas"].glob("*.py"))) <= MOST_FLAT


@pytest.mark.parametrize(
    "folder", [each for name in PACKAGES for each in packages_of(name)], ids=label
)
def test_a_package_is_small_and_says_what_enters_and_leaves(folder: Path) -> None:
    count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
    assert FEWEST <= count <= MOST
    text = ast.get_docstring(tree(folder / "__init__.py")) or ""
    assert len(re.findall(r"\.(?:\s|$)", text)) >= FEWEST, "content, input, output: a sentence each"


@pytest.mark.parametrize("path", files(), ids=label)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", files(), ids=label)
def test_docstrings_begin_with_a_noun_or_a_verb(path: Path) -> None:
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(n) for n in ast.walk(tree(path)) if isinstance(n, nodes)]
    assert [text for text in texts if text and QUESTION.match(text)] == []
