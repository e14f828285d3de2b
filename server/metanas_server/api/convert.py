"""Between messages and the types of the core and the server: the only place that knows both."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from google.protobuf import unknown_fields
from google.protobuf.timestamp_pb2 import Timestamp

from metanas.errors import InvalidInput, UnknownName, Violation
from metanas.spec.card import CheckpointCard, check_options
from metanas.spec.examples import Example, Limits, decode_label
from metanas.spec.options import Option
from metanas_protos.v1 import (
    adaptation_pb2,
    checkpoint_pb2,
    example_pb2,
    failure_pb2,
    model_pb2,
)
from metanas_server.errors import InvalidRequest, NotFound
from metanas_server.resources import (
    AdaptationRecord,
    Failure,
    ModelRecord,
    ProgressRecord,
    Spec,
    State,
)

MAX_REQUEST_ID = 128
DTYPES: dict[int, np.dtype[Any]] = {
    example_pb2.TENSOR_TYPE_UINT8: np.dtype("<u1"),
    example_pb2.TENSOR_TYPE_FLOAT32: np.dtype("<f4"),
}
STATES = {
    State.QUEUED: adaptation_pb2.ADAPTATION_STATE_QUEUED,
    State.RUNNING: adaptation_pb2.ADAPTATION_STATE_RUNNING,
    State.SUCCEEDED: adaptation_pb2.ADAPTATION_STATE_SUCCEEDED,
    State.FAILED: adaptation_pb2.ADAPTATION_STATE_FAILED,
    State.CANCELLED: adaptation_pb2.ADAPTATION_STATE_CANCELLED,
}


def read_spec(
    message: adaptation_pb2.AdaptationSpec, checkpoints: Mapping[str, CheckpointCard]
) -> Spec:
    """The spec, with the checkpoint found and the options checked against its defaults.

    Raises:
        UnknownName: UNKNOWN_CHECKPOINT.
        InvalidInput: options out of bounds or unknown, classes that are not UTF-8.
        InvalidRequest: REQUEST_ID_TOO_LONG, TIMEOUT_INVALID.
    """
    checkpoint = read_checkpoint_name(message.checkpoint, checkpoints)
    overrides = _read_options(message.options)
    card = checkpoints[checkpoint]
    check_options(card.defaults.replace(overrides), card.input, card.space)
    if len(message.request_id.encode()) > MAX_REQUEST_ID:
        text = f"the request id has more than {MAX_REQUEST_ID} bytes"
        raise InvalidRequest("spec.request_id", "REQUEST_ID_TOO_LONG", text)
    timeout = message.timeout.ToNanoseconds() / 1e9 if message.HasField("timeout") else None
    if timeout is not None and timeout <= 0:
        raise InvalidRequest("spec.timeout", "TIMEOUT_INVALID", "the timeout must be above 0")
    return Spec(
        checkpoint=checkpoint,
        overrides=overrides,
        seed=message.seed,
        classes=_read_classes(message.classes),
        request_id=message.request_id,
        timeout=timeout,
    )


def read_checkpoint_name(name: str, known: Mapping[str, object]) -> str:
    """The checkpoint's own name, from its resource name or from nothing if there is only one.

    Raises:
        UnknownName: UNKNOWN_CHECKPOINT, with those that there are.
    """
    if not name and len(known) == 1:
        return next(iter(known))
    bare = name.removeprefix("checkpoints/")
    if bare not in known:
        raise UnknownName("checkpoint", bare, tuple(known))
    return bare


def read_id(name: str, kind: str) -> str:
    """The last part of `adaptations/{adaptation}` or `models/{model}`; `kind` is the singular.

    Raises:
        NotFound: it is no such name.
    """
    collection, slash, id_ = name.partition("/")
    if collection != f"{kind}s" or not slash or not id_:
        raise NotFound(kind, name)
    return id_


def read_state(state: adaptation_pb2.AdaptationState.ValueType) -> State | None:
    """The state to filter by; None for all."""
    return next((ours for ours, theirs in STATES.items() if theirs == state), None)


def read_example(message: example_pb2.Example, index: int) -> Example:
    """The example; `index` is its place in the request, for the errors.

    Raises:
        InvalidInput: LABEL_NOT_UTF8, IMAGE_MISSING, TENSOR_TYPE, TENSOR_SHAPE.
    """
    label = decode_label(message.label, index)
    kind = message.WhichOneof("image")
    if kind == "encoded":
        return Example(label, message.encoded)
    field = f"examples[{index}].image"
    if kind is None:
        raise InvalidInput.single(field, "IMAGE_MISSING", "the example has no image; set one")
    tensor = message.tensor
    dtype, shape = DTYPES.get(tensor.type), tuple(tensor.shape)
    if dtype is None:
        raise InvalidInput.single(field, "TENSOR_TYPE", "set the tensor's type: uint8 or float32")
    count = int(np.prod(shape, dtype=object))
    if not 2 <= len(shape) <= 3 or count * dtype.itemsize != len(tensor.data):
        text = (
            f"{len(tensor.data)} bytes of data are no {dtype.name} tensor of shape {list(shape)};"
            " the shape is (height, width, channels) or (height, width)"
        )
        raise InvalidInput.single(field, "TENSOR_SHAPE", text)
    return Example(label, np.frombuffer(tensor.data, dtype=dtype).reshape(shape))


def write_adaptation(
    record: AdaptationRecord, progress: ProgressRecord | None = None
) -> adaptation_pb2.Adaptation:
    """The adaptation as a message."""
    return adaptation_pb2.Adaptation(
        name=f"adaptations/{record.id}",
        state=STATES[record.state],
        checkpoint=f"checkpoints/{record.checkpoint}",
        options=_write_options(record.overrides),
        seed=record.seed,
        request_id=record.request_id,
        labels=record.labels,
        example_count=record.example_count,
        attempts=record.attempts,
        create_time=_time(record.create_time),
        start_time=_time(record.start_time),
        end_time=_time(record.end_time),
        progress=None if progress is None else write_progress(progress),
        model=f"models/{record.model}" if record.model else "",
        failure=None if record.failure is None else _write_failure(record.failure),
    )


def write_progress(record: ProgressRecord) -> adaptation_pb2.Progress:
    """The sign of life as a message."""
    fields = asdict(record)
    time = fields.pop("time")
    return adaptation_pb2.Progress(**fields, time=_time(time))


def write_model(record: ModelRecord) -> model_pb2.Model:
    """The model as a message."""
    return model_pb2.Model(
        name=f"models/{record.id}",
        adaptation=f"adaptations/{record.id}",
        checkpoint=f"checkpoints/{record.checkpoint}",
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        labels=record.labels,
        genotype_json=record.genotype_json,
        report_json=record.report_json,
        create_time=_time(record.create_time),
    )


def write_chunk(record: ModelRecord, offset: int, data: bytes, first: bool) -> model_pb2.ModelChunk:
    """A piece of the model's file; the first and the last one carry digest and size."""
    chunk = model_pb2.ModelChunk(offset=offset, data=data)
    if first or offset + len(data) == record.size_bytes:
        chunk.sha256, chunk.size_bytes = record.sha256, record.size_bytes
    return chunk


def write_checkpoint(name: str, card: CheckpointCard, limits: Limits) -> checkpoint_pb2.Checkpoint:
    """The checkpoint's card as a message."""
    return checkpoint_pb2.Checkpoint(
        name=f"checkpoints/{name}",
        description=card.description,
        digest=card.digest,
        format_version=card.format_version,
        input=checkpoint_pb2.InputSpec(channels=card.input.channels, size=card.input.size),
        ops=card.ops,
        cells=card.space.cells,
        nodes=card.space.nodes,
        channels=card.space.channels,
        parameters=card.parameters,
        defaults=_write_options(card.defaults.to_dict()),
        limits=checkpoint_pb2.Limits(**asdict(limits)),
        scores={key: checkpoint_pb2.Scores(values=each) for key, each in card.scores.items()},
        provenance=card.provenance,
    )


def _read_options(message: adaptation_pb2.AdaptationOptions) -> dict[str, Option]:
    unknown = unknown_fields.UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(str(unknown[i].field_number) for i in range(len(unknown)))
        text = f"this server does not know option field {numbers}; it may be older than the client"
        raise InvalidInput.single("options", "OPTION_UNKNOWN", text)
    return {field.name: value for field, value in message.ListFields()}


def _write_options(options: Mapping[str, Option]) -> adaptation_pb2.AdaptationOptions:
    values: Mapping[str, Any] = options
    return adaptation_pb2.AdaptationOptions(**values)


def _read_classes(names: Sequence[bytes]) -> tuple[str, ...] | None:
    classes, bad = list[str](), list[Violation]()
    for index, name in enumerate(names):
        try:
            classes.append(name.decode("utf-8"))
        except UnicodeDecodeError:
            text = "the class name is not valid UTF-8"
            bad.append(Violation(f"classes[{index}]", "LABEL_NOT_UTF8", text))
    if bad:
        raise InvalidInput(bad)
    return tuple(classes) or None


def _write_failure(failure: Failure) -> failure_pb2.Failure:
    return failure_pb2.Failure(
        code=failure.code,
        reason=failure.reason,
        message=failure.message,
        violations=[failure_pb2.Violation(**asdict(each)) for each in failure.violations],
    )


def _time(nanoseconds: int) -> Timestamp | None:
    """None where it has not come to that."""
    if not nanoseconds:
        return None
    time = Timestamp()
    time.FromNanoseconds(nanoseconds)
    return time
