"""Public names of the package, and the packages that it needs."""

import inspect
import subprocess
import sys

import pytest

import metanas_client
from metanas_client import Adaptation, AsyncAdaptation, AsyncClient, Client
from tests.client.conftest import ENVIRONMENT

EXPORTED = [
    "Adaptation",
    "AdaptationCancelled",
    "AdaptationFailed",
    "AdaptationInfo",
    "AsyncAdaptation",
    "AsyncClient",
    "Busy",
    "Checkpoint",
    "Client",
    "ClientError",
    "Conflict",
    "DatasetError",
    "DownloadDamaged",
    "ForkedProcess",
    "InputSpec",
    "InvalidInput",
    "Limits",
    "MissingExtra",
    "Model",
    "ModelFileError",
    "ModelInfo",
    "NotAllowed",
    "NotFound",
    "NotWritable",
    "Progress",
    "Refused",
    "ServerFault",
    "SignatureError",
    "State",
    "TimedOut",
    "Unavailable",
    "Variant",
    "Violation",
    "__version__",
]

BLOCKING = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocker())
"""
HEAVY = "torch,onnx,onnxruntime,numpy,PIL,rich,matplotlib,metanas,metanas_server"


def without(blocked: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKING + code, blocked],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )


def test_the_exported_names_are_those_that_were_promised() -> None:
    assert sorted(metanas_client.__all__) == sorted(EXPORTED)


def test_the_base_installation_imports_nothing_heavy() -> None:
    code = "import metanas_client, metanas_client.__main__; print('fine')"
    done = without(HEAVY, code)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["predict", "m.onnx", "a.png"], "onnx"),
        (["verify", "m.onnx"], "onnx"),
        (["evaluate", "--data", "x.npz"], "onnx"),
        (["evaluate", "--data", "x.npz", "--plot", "x.png"], "plot"),
    ],
)
def test_a_missing_extra_says_how_to_install_it(command: list[str], extra: str) -> None:
    code = f"from metanas_client.__main__ import main; sys.exit(main({command!r}))"
    done = without(HEAVY, code)
    assert done.returncode == 2
    assert f'pip install "metanas-client[{extra}]"' in done.stderr


@pytest.mark.parametrize(
    ("blocking", "asynchronous"), [(Client, AsyncClient), (Adaptation, AsyncAdaptation)]
)
def test_both_clients_offer_the_same(blocking: type, asynchronous: type) -> None:
    def methods(kind: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(blocking) == methods(asynchronous)


def test_both_clients_are_made_alike() -> None:
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
