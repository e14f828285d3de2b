"""Imports at run time, with other packages made unimportable.

import-linter checks the static contracts (pyproject.toml). These tests start interpreters.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, imported, label, modules

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "safetensors")
EXTRAS = ("rich", "matplotlib")
WORKER_SIDE = {"metanas_server.workers.main"}
RAY_SIDE = {"metanas_server.workers.cluster.driver"}

PROGRAM = """
import sys

class Blocker:
    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked in this test", name=name)
        return None

blocked, modules = (argument.split(",") for argument in sys.argv[1:])
sys.meta_path.insert(0, Blocker(set(blocked)))
for name in modules:
    __import__(name)
"""


def import_without(blocked: tuple[str, ...], names: list[str]) -> str:
    """The error of a fresh interpreter that imports modules without `blocked`; empty if none."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(blocked), ",".join(names)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(str(path.parent) for path in PACKAGES.values())},
    )
    return "" if done.returncode == 0 else done.stderr


def name_of(path: Path, package: str) -> str:
    """The full name of the module in a file."""
    parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_the_blocker_blocks() -> None:
    assert "torch is blocked" in import_without(("torch",), ["torch"])


def test_the_client_starts_without_anything_heavy() -> None:
    blocked = (*HEAVY, *EXTRAS, "metanas", "metanas_server")
    assert import_without(blocked, ["metanas_client"]) == ""


def test_the_contract_needs_protobuf_and_grpc_only() -> None:
    blocked = (*HEAVY, *EXTRAS, "metanas", "metanas_server", "metanas_client", "grpc_status")
    assert import_without(blocked, ["metanas_protos"]) == ""


def test_the_bottom_of_the_core_needs_neither_torch_nor_numpy() -> None:
    names = ["metanas.errors", "metanas.spec.genotype", "metanas.spec.options"]
    assert import_without(HEAVY, names) == ""


def test_ray_is_for_those_who_ask_for_workers() -> None:
    names = [name_of(path, "metanas_server") for path in modules("metanas_server")]
    server = [name for name in names if name not in RAY_SIDE]
    assert import_without(("ray",), ["metanas.__main__", "metanas.testing", *server]) == ""


def test_cards_and_reports_are_read_without_torch() -> None:
    assert import_without(("torch", "onnx"), ["metanas.spec.card", "metanas.spec.progress"]) == ""


def test_the_front_of_the_server_imports_no_torch() -> None:
    names = [name_of(path, "metanas_server") for path in modules("metanas_server")]
    front = [name for name in names if name not in WORKER_SIDE]
    assert import_without(("torch", "onnx", "onnxruntime"), front) == ""


@pytest.mark.parametrize("package", ["metanas_server", "metanas_client"])
def test_messages_are_known_to_few_modules(package: str) -> None:
    allowed = {
        "metanas_server": {"answers", "convert", "service", "app"},
        "metanas_client": {"convert", "transport"},
    }[package]
    knowing = {
        label(path)
        for path in modules(package)
        if any("_pb2" in name and "metanas_protos" in name for name in imported(path))
    }
    assert {name for name in knowing if Path(name).stem not in allowed} == set()


def test_benchmarks_need_no_study() -> None:
    names = {name for path in modules("benchmarks") for name in imported(path)}
    assert {name for name in names if name.partition(".")[0] == "studies"} == set()
