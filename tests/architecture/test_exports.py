"""Exports of the packages: `__all__` lists every public name, and each name exists."""

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, label, tree

INITS = [path / "__init__.py" for path in PACKAGES.values()]


def _exported(module: ast.Module) -> list[str]:
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            names = ast.literal_eval(node.value)
            assert isinstance(names, list | tuple)
            return [str(name) for name in names]
    return []


@pytest.mark.parametrize("path", INITS, ids=label)
def test_every_imported_name_is_exported_and_nothing_else(path: Path) -> None:
    module = tree(path)
    imported = {
        alias.asname or alias.name
        for node in module.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    defined = {
        node.name
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    exported = set(_exported(module))
    assert {name for name in imported | defined if not name.startswith("_")} <= exported | {
        "annotations"
    }
    assert sorted(exported) == sorted(set(_exported(module)))


@pytest.mark.parametrize("path", list(PACKAGES.values()), ids=label)
def test_type_checkers_see_the_annotations(path: Path) -> None:
    assert (path / "py.typed").is_file()
