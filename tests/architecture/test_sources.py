"""Rules about the text of the source files: sizes, docstrings and forbidden statements."""

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import all_modules, code_lines, functions, label, modules, tree

FILE_LINES = 400
FUNCTION_LINES = 60
FORBIDDEN_CALLS = {"hasattr", "eval", "exec", "__import__"}

every_module = pytest.mark.parametrize("path", all_modules(), ids=label)


@every_module
def test_a_file_is_one_topic(path: Path) -> None:
    assert len(code_lines(path)) <= FILE_LINES


@every_module
def test_a_function_does_one_thing(path: Path) -> None:
    lines = code_lines(path)
    sizes = {
        function.name: len(lines & set(range(function.lineno, (function.end_lineno or 0) + 1)))
        for function in functions(path)
    }
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}


@every_module
def test_a_file_says_what_it_is(path: Path) -> None:
    text = ast.get_docstring(tree(path)) or ""
    assert text.splitlines()[:1] not in ([], [""])


@every_module
def test_nothing_is_looked_up_behind_the_back(path: Path) -> None:
    used = {
        node.func.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert used & FORBIDDEN_CALLS == set()


@every_module
def test_no_global_state_is_written(path: Path) -> None:
    statements = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]
    assert statements == []


@pytest.mark.parametrize("path", modules("metanas"), ids=label)
def test_the_core_reads_no_environment(path: Path) -> None:
    """Results depend on arguments alone. `setdefault`, for a library, reads nothing."""
    nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
    defaults = {id(node.value) for node in nodes if node.attr == "setdefault"}
    names = {"environ", "getenv", "putenv"}
    assert [n.lineno for n in nodes if n.attr in names and id(n) not in defaults] == []


@every_module
def test_errors_are_not_swallowed(path: Path) -> None:
    """A bare `except:` hides a cancelled task and Ctrl-C."""
    bare = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []
