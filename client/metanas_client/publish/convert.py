"""Configuration of a model for Triton: as protobuf text, and in the message that loads it."""

import json
from collections.abc import Mapping, Sequence

from google.protobuf import text_encoding

from metanas_client.errors import ModelFileError
from metanas_client.onnx.model_file import ModelFile, Tensor
from metanas_protos.inference import inference_service_pb2 as protocol

MOST_IMAGES = 16
"""Most images that Triton joins to one batch; images of one batch have the same size."""
LABELS_FILE = "labels.txt"
TYPES: Mapping[str, str] = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
}
"""Type of ONNX Runtime -> type of Triton."""
LoadRequest = protocol.RepositoryModelLoadRequest
Config = dict[str, object]


def config_of(model: ModelFile, name: str) -> Config:
    """Describe a model as Triton's `ModelConfig`, in the form of its JSON.

    A file whose first axis is fixed takes one image in a query and is not batched.
    """
    batched = not isinstance(model.inputs[0].shape[0], int)
    config: Config = {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": MOST_IMAGES if batched else 0,
        "input": [_tensor(each, batched=batched) for each in model.inputs],
        "output": [_tensor(each, batched=batched) for each in model.outputs],
        "parameters": {"labels": {"string_value": json.dumps(model.labels, ensure_ascii=False)}},
    }
    return {**config, "dynamic_batching": {}} if batched else config


def with_labels(config: Config, output: str = "probabilities") -> Config:
    """Name the file of the labels, which Triton's classification extension reads."""
    outputs = config["output"]
    assert isinstance(outputs, list)
    named = [
        {**each, "label_filename": LABELS_FILE} if each["name"] == output else each
        for each in outputs
    ]
    return {**config, "output": named}


def pbtxt(config: Config) -> str:
    """Write a configuration as protobuf text."""
    return "\n".join(_lines(config)) + "\n"


def load_request(name: str, config: Config, onnx: bytes) -> LoadRequest:
    """Build the call that loads a model from this file instead of one in Triton's repository."""
    parameter = protocol.ModelRepositoryParameter
    return LoadRequest(
        model_name=name,
        parameters={
            "config": parameter(string_param=json.dumps(config)),
            "file:1/model.onnx": parameter(bytes_param=onnx),
        },
    )


def _tensor(tensor: Tensor, *, batched: bool) -> dict[str, object]:
    kind = TYPES.get(tensor.kind)
    if kind is None:
        message = f"Triton has no type for {tensor.name} of {tensor.kind}"
        raise ModelFileError("TYPE_UNKNOWN", message)
    dims = [size if isinstance(size, int) else -1 for size in tensor.shape[int(batched) :]]
    described: dict[str, object] = {"name": tensor.name, "data_type": kind, "dims": dims or [1]}
    # Triton wants dimensions beside the batch; `reshape` says that the file has none
    return described if dims else {**described, "reshape": {"shape": []}}


def _lines(message: Mapping[str, object], indent: str = "") -> list[str]:
    lines = []
    for name, value in message.items():
        for each in _repeated(name, value):
            if isinstance(each, Mapping):
                lines += [f"{indent}{name} {{", *_lines(each, indent + "  "), f"{indent}}}"]
            else:
                lines.append(f"{indent}{name}: {_scalar(name, each)}")
    return lines


def _repeated(name: str, value: object) -> Sequence[object]:
    """Return the values of a field, one for each time that the text has it."""
    if name == "parameters" and isinstance(value, Mapping):
        return [{"key": key, "value": each} for key, each in value.items()]
    return value if isinstance(value, list) else [value]


def _scalar(name: str, value: object) -> str:
    if name == "data_type" or not isinstance(value, str):
        return str(value)
    return f'"{text_encoding.CEscape(value.encode(), as_utf8=False)}"'
