"""Lists and measurements of the hand-written source files for the architecture tests."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "metanas": ROOT / "metanas",
    "metanas_data": ROOT / "data" / "metanas_data",
    "metanas_protos": ROOT / "protos" / "metanas_protos",
    "metanas_server": ROOT / "server" / "metanas_server",
    "metanas_client": ROOT / "client" / "metanas_client",
}
MEASURING = {name: ROOT / name for name in ("benchmarks", "studies")}
"""Packages that are not distributed."""
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def modules(package: str) -> list[Path]:
    """All hand-written modules of a package."""
    paths = sorted({**PACKAGES, **MEASURING}[package].rglob("*.py"))
    return [path for path in paths if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def all_modules() -> list[Path]:
    """All hand-written modules of all packages."""
    return [path for package in (*PACKAGES, *MEASURING) for path in modules(package)]


def label(path: Path) -> str:
    """The name of a file in a test's id: its path from the root."""
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def docstring_lines(node: ast.AST) -> set[int]:
    """Numbers of the lines that are docstrings in or below `node`."""
    lines: set[int] = set()
    for each in ast.walk(node):
        if not isinstance(each, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = each.body[0] if each.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that are neither blank nor comment nor docstring."""
    source = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(tree(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in the file: `a.b` for `import a.b`,
    `a.b` and `a.b.c` for `from a.b import c`.
    """
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names
