"""Clients of other projects, unchanged, query adapted models: KServe in Python, and grpc-js.

`test_tritonclient.py` has the client of Triton, and `test_inference.py` has `buf curl`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from metanas.export.runtime import session
from metanas_protos.inference import inference_service_pb2 as protocol
from tests.runtimes.installing import from_npm, from_pypi
from tests.server.calls import Api
from tests.server.processes import ServerProcess
from tests.server.queries import adapted, pixels

HERE = Path(__file__).parent
# KServe and the packages that its client imports, except those of this project; 434 MB with all
KSERVE = (
    "annotated-doc==0.0.7",
    "annotated-types==0.8.0",
    "cloudevents==1.13.0",
    "deprecation==2.1.0",
    "durationpy==0.11",
    "fastapi==0.165.0",
    "grpc-interceptor==0.15.4",
    "httpx==0.28.1",
    "kserve==0.21.0",
    "kubernetes==37.0.1",
    "oauthlib==4.0.1",
    "opentelemetry-api==1.45.2",
    "orjson==3.13.0",
    "pandas==2.3.3",
    "pydantic==2.14.4",
    "pydantic-core==2.50.5",
    "pytz==2026.6",
    "requests-oauthlib==2.0.0",
    "tabulate==0.10.0",
    "timing-asgi==0.3.2",
    "typing-inspection==0.4.5",
    "watchfiles==1.3.0",
    "websocket-client==1.9.2",
)
GRPC_JS = ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")


@pytest.fixture(scope="module")
def model(api: Api) -> tuple[str, bytes]:
    """The id of a model of grey images, and its file."""
    return adapted(api)


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)  # a registry may be slow
def test_kserve(server: ServerProcess, model: tuple[str, bytes], tmp_path: Path) -> None:
    name, onnx = model
    from_pypi(KSERVE, tmp_path)
    np.save(tmp_path / "images.npy", pixels(3))
    program = [sys.executable, str(HERE / "kserve_query.py"), server.address, name, "images.npy"]
    printed = run(program, tmp_path, PYTHONPATH=str(tmp_path))
    (wanted,) = session(onnx).run(["probabilities"], {"images": pixels(3)})
    for answer in json.loads(printed):
        np.testing.assert_allclose(answer, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a registry may be slow
def test_grpc_js(server: ServerProcess, model: tuple[str, bytes], tmp_path: Path) -> None:
    name, onnx = model
    from_npm(GRPC_JS, tmp_path)
    (tmp_path / "query.mjs").write_bytes((HERE / "grpc_js_query.mjs").read_bytes())
    (tmp_path / "images.bin").write_bytes(pixels(3).tobytes())
    proto = str(Path(protocol.__file__).with_name("inference_service.proto"))
    shape = json.dumps(pixels(3).shape)
    command = ["node", "query.mjs", server.address, name, proto, shape, "images.bin"]
    answer = json.loads(run(command, tmp_path))
    (wanted,) = session(onnx).run(["probabilities"], {"images": pixels(3)})
    assert answer["live"]
    assert answer["refused"] == grpc.StatusCode.NOT_FOUND.value[0]
    np.testing.assert_allclose(np.reshape(answer["probabilities"], wanted.shape), wanted, atol=1e-5)
