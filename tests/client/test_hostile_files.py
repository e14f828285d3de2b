"""Hostile model files: refused with a reason, without reading other files or much memory."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from metanas_client import Model, ModelFileError
from metanas_client.onnx import scan
from metanas_client.onnx.model_file import MOST_BYTES, ModelFile, read_model
from metanas_client.onnx.runtime import MOST_MEMORY
from metanas_client.onnx.scan import check_bytes
from tests.client.test_cli import metanas

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def sound(model_file: Path) -> bytes:
    return model_file.read_bytes()


def changed(sound: bytes, change: Change) -> bytes:
    model = onnx.load_from_string(sound)
    change(model)
    return model.SerializeToString()


def refusal(data: bytes) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        ModelFile(data, source="x.onnx").check()
    return caught.value


def external(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "length": str(length)}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def located(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def in_attribute(model: onnx.ModelProto) -> None:
    """Weights of a constant node, in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "evil"


def nested(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=body))


def functions(model: onnx.ModelProto) -> None:
    model.functions.add().name = "f"


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = model.graph.node[9].output[0]


def huge_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**31, 2**31]


def huge_input(model: onnx.ModelProto) -> None:
    for dimension, value in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 2**40, 2**40), strict=False
    ):
        dimension.dim_value = value


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def without_output(model: onnx.ModelProto) -> None:
    del model.graph.output[2]


def allocating(kind: str, numbers: int) -> Change:
    """A graph that needs so many numbers in single precision while it runs."""

    def change(model: onnx.ModelProto) -> None:
        constants: dict[str, NDArray[Any]] = {
            "size": np.array([numbers], np.int64),
            "start": np.array(0, np.float32),
            "end": np.array(numbers, np.float32),
            "step": np.array(1, np.float32),
        }
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in constants.items()
        )
        inputs = ["size"] if kind == "ConstantOfShape" else ["start", "end", "step"]
        known = next(node for node in model.graph.node if node.output[0] == "known")
        known.output[0] = "known_before"
        model.graph.node.extend(
            [
                helper.make_node(kind, inputs, ["many"]),
                helper.make_node("ReduceMax", ["many"], ["one"], keepdims=0),
                helper.make_node("Mul", ["one", "start"], ["zero"]),
                helper.make_node("Add", ["known_before", "zero"], ["known"]),
            ]
        )

    return change


UNREADABLE = {
    "beside": external("weights.bin"),
    "absolute": external("/etc/hostname"),
    "above": external("../weights.bin"),
    "address": external("*/_ORT_MEM_ADDR_/*"),
    "located": located,
    "attribute": in_attribute,
    "custom": custom,
    "nested": nested,
    "functions": functions,
    "sparse": sparse,
    "cycle": cycle,
    "huge weight": huge_weight,
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_files_that_cannot_be_trusted(sound: bytes, change: Change) -> None:
    assert refusal(changed(sound, change)).reason == "MODEL_UNREADABLE"


@pytest.mark.parametrize("change", [huge_input, other_input, without_output])
def test_graphs_of_others(sound: bytes, change: Change) -> None:
    assert refusal(changed(sound, change)).reason in {"MODEL_FOREIGN", "MODEL_UNREADABLE"}


def test_no_other_file_is_read(
    sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself reads weights from the working directory."""
    monkeypatch.chdir(tmp_path)
    weights = max(len(each.raw_data) for each in onnx.load_from_string(sound).graph.initializer)
    (tmp_path / "weights.bin").write_bytes(bytes(weights))
    for location in ("weights.bin", f"../{tmp_path.name}/weights.bin"):
        message = str(refusal(changed(sound, external(location))))
        assert "weights in other files" in message


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Range"])
def test_memory_is_bounded(sound: bytes, kind: str) -> None:
    few = ModelFile(changed(sound, allocating(kind, 1000)))
    assert all(check.passed for check in few.check())
    numbers = MOST_MEMORY // 4 + 2**20
    assert refusal(changed(sound, allocating(kind, numbers))).reason == "MODEL_UNREADABLE"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_truncated_files(sound: bytes, share: float) -> None:
    assert refusal(sound[: int(len(sound) * share)]).reason in {"MODEL_UNREADABLE", "MODEL_FOREIGN"}


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_give_an_error_of_the_file_or_none(sound: bytes, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = np.frombuffer(sound, np.uint8).copy()
    data[random.integers(0, len(data), 20)] ^= random.integers(1, 256, 20, dtype=np.uint8)
    with suppress(ModelFileError):
        ModelFile(data.tobytes()).check()


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x7f" * 1000,
        b"\xff" * 100,
        b"\x0b",
        b"\x3a\x05\x0a",
        np.random.default_rng(0).bytes(2000),
    ],
    ids=["lengths", "varints", "group", "short", "noise"],
)
def test_bytes_that_are_no_message(data: bytes) -> None:
    assert refusal(data).reason in {"MODEL_UNREADABLE", "MODEL_FOREIGN"}


def test_the_number_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MOST_FIELDS", 100)
    check_bytes(b"\x08\x08" * 100)
    with pytest.raises(ValueError, match="more than 100 fields"):
        check_bytes(b"\x08\x08" * 101)


def test_the_size_of_a_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    assert caught.value.reason == "MODEL_FOREIGN"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("genotype", "[" * 200_000),
        ("labels", "[" * 200_000),
        ("conformance", json.dumps({"image": "AAAA", "shape": [4], "logits": [], "known": 0})),
        ("conformance", json.dumps({"image": "", "shape": [2**40, 2**40, 1], "logits": [0]})),
        ("variant", json.dumps({"precision": "fp16", "images": "many"})),
        ("variant", json.dumps({"evil": 1})),
    ],
)
def test_hostile_metadata(sound: bytes, key: str, value: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        properties = {entry.key: entry.value for entry in model.metadata_props}
        del model.metadata_props[:]
        helper.set_model_props(model, {**properties, f"metanas.{key}": value})

    reasons = {"METADATA_MALFORMED", "GENOTYPE_MALFORMED"}
    assert refusal(changed(sound, change)).reason in reasons


def test_every_command_refuses_them(sound: bytes, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.onnx"
    path.write_bytes(changed(sound, external("weights.bin")))
    for arguments in (
        ("verify", path),
        ("show", path),
        ("predict", path, folder),
        ("test", path, folder),
    ):
        done = metanas(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "weights in other files" in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(ModelFileError):
        Model.load(path)
