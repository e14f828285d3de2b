"""Queries of the Open Inference Protocol by hand, and adapted models to ask."""

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.inference import inference_service_pb2_grpc as stubs
from tests.server.calls import SECONDS, Api, Refusal, images, refused, spec

InputTensor = protocol.ModelInferRequest.InferInputTensor


class Queries:
    """The stub of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = stubs.GRPCInferenceServiceStub(channel)

    def infer(self, request: protocol.ModelInferRequest) -> protocol.ModelInferResponse:
        return self.stub.ModelInfer(request, timeout=SECONDS)

    def refusal(self, request: protocol.ModelInferRequest) -> Refusal:
        return refused(self.infer, request)


def adapted(api: Api, seed: int = 1, checkpoint: str = "grey") -> tuple[str, bytes]:
    """Adapt; returns the id of the model and its file."""
    answer = api.adapt(spec(seed=seed, checkpoint=f"checkpoints/{checkpoint}"), images())
    return answer.model.name.removeprefix("models/"), answer.onnx


def pixels(count: int = 3, size: int = 12, channels: int = 1) -> NDArray[np.uint8]:
    """Noise images (N, H, W, C)."""
    shape = (count, size, size, channels)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def raw_query(model: str, values: NDArray[np.uint8], **fields: Any) -> protocol.ModelInferRequest:
    """A query with raw pixels."""
    tensor = InputTensor(name="images", datatype="UINT8", shape=values.shape)
    return protocol.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[values.tobytes()], **fields
    )


def file_query(model: str, files: Sequence[bytes], **fields: Any) -> protocol.ModelInferRequest:
    """A query with encoded files as raw elements."""
    tensor = InputTensor(name="images", datatype="BYTES", shape=[len(files)])
    raw = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    return protocol.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[raw], **fields
    )


def values_of(answer: protocol.ModelInferResponse) -> dict[str, NDArray[np.float32]]:
    """The raw FP32 outputs by name."""
    return {
        tensor.name: np.frombuffer(raw, "<f4").reshape(tensor.shape)
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
