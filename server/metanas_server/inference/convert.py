"""Conversion of the messages of the Open Inference Protocol: queries in, answers out."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas.errors import InvalidInput
from metanas_data.errors import ImageError
from metanas_data.limits import ImageLimits
from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_server.errors import NotFound
from metanas_server.inference.clock import Phase
from metanas_server.inference.open_model import OpenModel
from metanas_server.inference.query import Images, Outputs, Query, Tensor, Wanted
from metanas_server.inference.statistics import Counts

VERSION = "1"
BACKEND, PLATFORM = "onnxruntime", "onnxruntime_onnx"
LENGTH_BYTES = 4  # of the length before each raw element of a BYTES tensor
InputTensor = protocol.ModelInferRequest.InferInputTensor


def read_model_id(name: str, version: str) -> str:
    """Return the id of a model.

    Raises:
        NotFound: UNKNOWN_VERSION.
    """
    if version not in ("", VERSION):
        raise NotFound("version", version)
    return name.removeprefix("models/")


def read_query(
    message: protocol.ModelInferRequest, model: OpenModel, limits: ImageLimits, most_images: int
) -> Query:
    """Read a query and check all sizes; files are not decoded.

    Raises:
        InvalidInput: INPUT_NAME, INPUT_DATATYPE, INPUT_SHAPE, INPUT_CONTENTS, TOO_MANY_IMAGES,
            OUTPUT_UNKNOWN, CLASSIFICATION_INVALID, or a reason of an image.
    """
    names = [each.name for each in message.inputs]
    if names != [model.images.name]:
        text = f"the inputs are {_list(names)}; send one input {model.images.name!r}"
        raise InvalidInput.single("inputs", "INPUT_NAME", text)
    given = message.inputs[0]
    raw = _raw(message)
    if given.datatype == "BYTES":
        images: Images = _read_files(given, raw, most_images)
    elif given.datatype == model.images.datatype:
        images = _read_pixels(given, raw, model.images, limits, most_images)
    else:
        text = f"the datatype is {_short(given.datatype)}; send {model.images.datatype} or BYTES"
        raise InvalidInput.single("inputs[0].datatype", "INPUT_DATATYPE", text)
    return Query(images=images, wanted=tuple(_read_wanted(message, model)))


def write_answer(
    message: protocol.ModelInferRequest, model: OpenModel, query: Query, outputs: Outputs
) -> protocol.ModelInferResponse:
    """Write the answer of a query, with raw elements if the query had raw elements."""
    answer = protocol.ModelInferResponse(
        model_name=message.model_name, model_version=VERSION, id=message.id
    )
    raw = bool(message.raw_input_contents)
    for wanted in query.wanted:
        values = outputs[wanted.name]
        written = answer.outputs.add(name=wanted.name, datatype="FP32", shape=values.shape)
        if wanted.classes:
            texts = _classification(values, wanted.classes, model.labels)
            written.datatype = "BYTES"
            written.shape[:] = [len(values), len(texts) // len(values)]
            if raw:
                parts = (len(each).to_bytes(LENGTH_BYTES, "little") + each for each in texts)
                answer.raw_output_contents.append(b"".join(parts))
            else:
                written.contents.bytes_contents.extend(texts)
        elif raw:
            answer.raw_output_contents.append(values.astype("<f4").tobytes())
        else:
            written.contents.fp32_contents.extend(values.ravel().tolist())
    return answer


def write_metadata(name: str, model: OpenModel) -> protocol.ModelMetadataResponse:
    """Describe the inputs and outputs of a model."""
    return protocol.ModelMetadataResponse(
        name=name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[_write_tensor(model.images)],
        outputs=[_write_tensor(each) for each in model.outputs],
    )


def write_config(name: str, model: OpenModel, most_images: int) -> protocol.ModelConfigResponse:
    """Describe a model in the words of Triton."""
    labels = json.dumps(model.labels, ensure_ascii=False)
    images = model.images
    config = protocol.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=most_images,
        input=[
            protocol.ModelInput(
                name=images.name, data_type=_data_type(images), dims=images.shape[1:]
            )
        ],
        output=[
            protocol.ModelOutput(name=each.name, data_type=_data_type(each), dims=each.shape[1:])
            for each in model.outputs
        ],
        parameters={"labels": protocol.ModelParameter(string_value=labels)},
    )
    return protocol.ModelConfigResponse(config=config)


def write_statistics(counts: Counts, open_bytes: int) -> protocol.ModelStatistics:
    """Write the counts of a model.

    open_bytes: its memory; 0 if it is not open.
    """

    def duration(count: int, nanoseconds: int) -> protocol.StatisticDuration:
        return protocol.StatisticDuration(count=count, ns=nanoseconds)

    queue, read, infer, write = (duration(counts.answered, counts.phases[p]) for p in Phase)
    memory = [protocol.MemoryUsage(type="CPU", byte_size=open_bytes)] if open_bytes else []
    return protocol.ModelStatistics(
        name=counts.id,
        version=VERSION,
        last_inference=counts.last // 1_000_000,
        inference_count=counts.images,
        execution_count=counts.runs,
        inference_stats=protocol.InferStatistics(
            success=duration(counts.answered, counts.answered_time),
            fail=duration(counts.failed, counts.failed_time),
            queue=queue,
            compute_input=read,
            compute_infer=infer,
            compute_output=write,
        ),
        memory_usage=memory,
    )


def write_index(ids: Sequence[str]) -> protocol.RepositoryIndexResponse:
    """List models; all of them are ready."""
    index = protocol.RepositoryIndexResponse.ModelIndex
    return protocol.RepositoryIndexResponse(
        models=[index(name=id_, version=VERSION, state="READY") for id_ in ids]
    )


def refuse_parameters(request: protocol.RepositoryModelLoadRequest) -> None:
    """Refuse to upload or to change a model.

    Raises:
        InvalidInput: LOAD_PARAMETERS.
    """
    if request.parameters:
        text = "models cannot be uploaded or changed; create an adaptation to make one"
        raise InvalidInput.single("parameters", "LOAD_PARAMETERS", text)


def _data_type(tensor: Tensor) -> protocol.DataType.ValueType:
    return protocol.DataType.Value(f"TYPE_{tensor.datatype}")


def _write_tensor(tensor: Tensor) -> protocol.ModelMetadataResponse.TensorMetadata:
    return protocol.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _raw(message: protocol.ModelInferRequest) -> bytes | None:
    """Return the raw elements of the only input; None if the query has typed elements."""
    raw = message.raw_input_contents
    if not raw:
        return None
    if len(raw) != 1 or message.inputs[0].HasField("contents"):
        text = "send the elements once: in raw_input_contents, one entry for each input, or typed"
        raise InvalidInput.single("raw_input_contents", "INPUT_CONTENTS", text)
    return raw[0]


def _read_pixels(
    given: InputTensor, raw: bytes | None, expected: Tensor, limits: ImageLimits, most_images: int
) -> NDArray[np.uint8]:
    shape = tuple(given.shape)
    fits = len(shape) == len(expected.shape) and all(
        size > 0 and wanted in (-1, size)
        for size, wanted in zip(shape, expected.shape, strict=True)
    )
    if not fits:
        text = f"the shape is {_list(shape)}; send {list(expected.shape)}, -1 is any size"
        raise InvalidInput.single("inputs[0].shape", "INPUT_SHAPE", text)
    count, height, width, _ = shape
    _check_count(count, most_images)
    try:
        limits.check_size(width, height)
    except ImageError as error:
        raise InvalidInput.single("inputs[0].shape", error.reason, error.message) from error
    elements = given.contents.uint_contents if raw is None else raw
    if len(elements) != math.prod(shape):
        text = f"there are {len(elements)} elements; the shape {list(shape)} needs another number"
        raise InvalidInput.single("inputs[0]", "INPUT_CONTENTS", text)
    if raw is not None:
        return np.frombuffer(raw, np.uint8).reshape(shape)
    values = np.array(given.contents.uint_contents, np.uint32)
    if values.max() > 255:
        text = f"the largest element is {values.max()}; elements of UINT8 go from 0 to 255"
        raise InvalidInput.single("inputs[0]", "INPUT_CONTENTS", text)
    return values.astype(np.uint8).reshape(shape)


def _read_files(given: InputTensor, raw: bytes | None, most_images: int) -> Sequence[bytes]:
    shape = tuple(given.shape)
    if len(shape) not in (1, 2) or shape[0] < 1 or shape[1:] not in ((), (1,)):
        text = f"the shape is {_list(shape)}; encoded images have the shape [N] or [N, 1]"
        raise InvalidInput.single("inputs[0].shape", "INPUT_SHAPE", text)
    _check_count(shape[0], most_images)
    files = given.contents.bytes_contents if raw is None else list(_elements(raw, most_images))
    if len(files) != shape[0]:
        text = f"there are {len(files)} elements, and the shape says {shape[0]}"
        raise InvalidInput.single("inputs[0]", "INPUT_CONTENTS", text)
    return files


def _elements(raw: bytes, most: int) -> Iterator[bytes]:
    """Yield the elements of a raw BYTES tensor, at most one more than `most`."""
    start = 0
    for _ in range(most + 1):
        if start == len(raw):
            return
        begin = start + LENGTH_BYTES
        start = begin + int.from_bytes(raw[start:begin], "little")
        if start > len(raw):
            text = (
                "an element ends behind the data; each follows its length (32 bits, little-endian)"
            )
            raise InvalidInput.single("raw_input_contents[0]", "INPUT_CONTENTS", text)
        yield raw[begin:start]


def _check_count(count: int, most: int) -> None:
    if count > most:
        text = f"there are {count} images; a query may have {most}; send several queries"
        raise InvalidInput.single("inputs[0].shape", "TOO_MANY_IMAGES", text)


def _read_wanted(message: protocol.ModelInferRequest, model: OpenModel) -> Iterator[Wanted]:
    ranks = {each.name: len(each.shape) for each in model.outputs}
    known = list(ranks)
    if not message.outputs:
        yield from (Wanted(name=name) for name in known)
    for index, each in enumerate(message.outputs):
        if each.name not in known or each.name in [one.name for one in message.outputs[:index]]:
            text = f"{_short(each.name)} is no output, or is there twice; ask for {_list(known)}"
            raise InvalidInput.single(f"outputs[{index}].name", "OUTPUT_UNKNOWN", text)
        yield Wanted(name=each.name, classes=_read_classes(each, ranks[each.name], index))


def _read_classes(
    wanted: protocol.ModelInferRequest.InferRequestedOutputTensor, rank: int, index: int
) -> int:
    if "classification" not in wanted.parameters:
        return 0
    classes = wanted.parameters["classification"].int64_param
    if classes < 1 or rank != 2:
        field = f"outputs[{index}].parameters"
        text = "classification is a number of classes, int64_param of 1 or more, of (N, ways) only"
        raise InvalidInput.single(field, "CLASSIFICATION_INVALID", text)
    return classes


def _classification(
    values: NDArray[np.float32], classes: int, labels: Sequence[str]
) -> list[bytes]:
    """Return "value:index:label" of the largest values of each row, the largest first."""
    named = labels if len(labels) == values.shape[1] else ()
    texts = []
    for row in values:
        for index in np.argsort(-row, kind="stable")[:classes].tolist():
            label = f":{named[index]}" if named else ""
            texts.append(f"{row[index]:f}:{index}{label}".encode())
    return texts


def _list(items: Sequence[Any]) -> str:
    """Return the first items as text."""
    return f"[{', '.join(map(str, items[:8]))}{', …' if len(items) > 8 else ''}]"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
