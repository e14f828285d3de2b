"""Models for Triton: the model repository, and the call that loads one, checked by its own code."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from metanas_client.__main__ import main
from metanas_client.onnx.model_file import ModelFile, Tensor
from metanas_client.publish.convert import MOST_IMAGES, config_of, pbtxt


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Record calls that load a model; refuse the name "refused"."""

    def __init__(self) -> None:
        self.loaded: list[Any] = []

    def RepositoryModelLoad(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> Any:
        if request.model_name == "refused":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the backend is missing")
        self.loaded.append(request)
        return service_pb2.RepositoryModelLoadResponse()


@pytest.fixture
def triton() -> Iterator[tuple[Triton, str]]:
    servicer = Triton()
    unlimited = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(2), options=unlimited)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def parsed(path: Path) -> Any:
    """The configuration, read by Triton's protobuf."""
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def test_the_repository_has_the_file_and_its_configuration(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    command = ["models", "export", str(model_file), "--triton", str(repository), "--name=shapes"]
    assert main(command) == 0
    assert str(repository / "shapes") in capsys.readouterr().out
    folder = repository / "shapes"
    assert (folder / "1" / "model.onnx").read_bytes() == model_file.read_bytes()
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == ["a", "b", "ü"]
    config = parsed(folder / "config.pbtxt")
    model = ModelFile.load(model_file)
    assert (config.name, config.backend) == ("shapes", "onnxruntime")
    assert config.max_batch_size == MOST_IMAGES
    assert config.HasField("dynamic_batching")
    [images] = config.input
    assert (images.name, list(images.dims)) == ("images", [-1, -1, model.channels])
    assert images.data_type == model_config_pb2.TYPE_UINT8
    outputs = {each.name: each for each in config.output}
    assert list(outputs) == ["logits", "probabilities", "known"]
    assert list(outputs["logits"].dims) == [3]
    assert outputs["probabilities"].label_filename == "labels.txt"
    assert list(outputs["known"].dims) == [1]
    assert outputs["known"].HasField("reshape")
    assert list(outputs["known"].reshape.shape) == []
    assert json.loads(config.parameters["labels"].string_value) == ["a", "b", "ü"]
    assert main(command) == 2
    assert "add --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_a_file_of_fixed_size_is_not_batched(model_file: Path) -> None:
    model = ModelFile.load(model_file)
    model.inputs = (Tensor("images", "tensor(uint8)", (1, 224, 224, 3)),)
    model.outputs = (
        Tensor("logits", "tensor(float16)", (1, 3)),
        Tensor("known", "tensor(float)", (1,)),
    )
    config = text_format.Parse(pbtxt(config_of(model, "x")), model_config_pb2.ModelConfig())
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, 224, 224, 3]
    assert [list(each.dims) for each in config.output] == [[1, 3], [1]]
    assert not config.output[1].HasField("reshape")
    assert config.output[0].data_type == model_config_pb2.TYPE_FP16


def test_labels_survive_the_text(model_file: Path) -> None:
    model = ModelFile.load(model_file)
    model.labels = ('"quoted"', "back\\slash", "кот😀", "{ x: 1 }")
    config = text_format.Parse(pbtxt(config_of(model, "x")), model_config_pb2.ModelConfig())
    assert tuple(json.loads(config.parameters["labels"].string_value)) == model.labels


def test_a_push_loads_the_file_into_triton(
    model_file: Path, triton: tuple[Triton, str], capsys: pytest.CaptureFixture[str]
) -> None:
    servicer, address = triton
    assert main(["models", "push", str(model_file), f"--triton={address}", "--name=a-b.1"]) == 0
    [request] = servicer.loaded
    assert request.model_name == "a-b.1"
    assert request.parameters["file:1/model.onnx"].bytes_param == model_file.read_bytes()
    text = request.parameters["config"].string_param
    config = json_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == ("a-b.1", "onnxruntime")
    assert list(config.input[0].dims) == [-1, -1, 1]
    assert "a-b.1" in capsys.readouterr().out


def test_a_model_of_the_server_is_pushed_and_exported_by_its_name(
    server: str, folder: Path, triton: tuple[Triton, str], tmp_path: Path
) -> None:
    here, out = f"--server={server}", tmp_path / "m.onnx"
    assert main(["adapt", str(folder), here, f"--out={out}", "--seed=31"]) == 0
    from metanas_client import Client

    with Client(server) as client:
        name = next(client.models()).name
    servicer, address = triton
    assert main(["models", "push", name, here, f"--triton={address}"]) == 0
    [request] = servicer.loaded
    assert request.model_name == name.rpartition("/")[2]
    assert request.parameters["file:1/model.onnx"].bytes_param == out.read_bytes()
    assert main(["models", "export", name, here, f"--triton={tmp_path / 'models'}"]) == 0
    assert (tmp_path / "models" / request.model_name / "config.pbtxt").exists()


def test_errors_of_a_push_say_what_to_do(
    model_file: Path, triton: tuple[Triton, str], capsys: pytest.CaptureFixture[str]
) -> None:
    servicer, address = triton
    push = ["models", "push", str(model_file)]
    cases = {
        "the backend is missing": (4, [f"--triton={address}", "--name=refused"]),
        "--model-control-mode=explicit": (3, ["--triton=127.0.0.1:1"]),
        "host:port": (2, ["--triton=nowhere"]),
        "use letters": (2, [f"--triton={address}", "--name=../up"]),
    }
    for expected, (code, flags) in cases.items():
        assert main([*push, *flags]) == code
        assert expected in capsys.readouterr().err
    assert servicer.loaded == []
