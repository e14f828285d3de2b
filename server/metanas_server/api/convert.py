"""Convert the messages of requests to the types of the core and the server.

Requests are untrusted: counts and sizes are compared with their limits before any value is read.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from google.protobuf import unknown_fields
from numpy.typing import NDArray

from metanas.errors import InvalidInput, UnknownName, Violation
from metanas.spec.budget import check_reachable
from metanas.spec.card import CheckpointCard, check_options
from metanas.spec.examples import Example, Limits, decode_label
from metanas.spec.options import Option
from metanas.spec.universal import UNIVERSAL, UNIVERSAL_FILE, Universal
from metanas_protos.v1 import (
    adaptation_pb2,
    example_pb2,
    model_service_pb2,
)
from metanas_server.callers.tokens import is_name
from metanas_server.errors import NotFound
from metanas_server.resources import (
    EVERYBODY,
    ModelChange,
    Spec,
    State,
)

Image = bytes | NDArray[np.uint8] | NDArray[np.float32]
MAX_REQUEST_ID = 128  # bytes, as the contract says
MAX_SECONDS = 1_000_000  # longer ones overflow in timers
MAX_NAME = 256  # characters of a resource name; longer ones cannot exist
LEAST_UNSHARED = 1000  # names that a call may remove, also where fewer are allowed now
SHOWN_OPTIONS = 5  # numbers of unknown option fields in a message
PLACEHOLDER: Image = b"?"  # stands in for an image that cannot be read
SHAPES = "(height, width, channels) or (height, width)"
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
    message: adaptation_pb2.AdaptationSpec,
    checkpoints: Mapping[str, CheckpointCard],
    universal: Universal | None,
    limits: Limits,
) -> Spec:
    """Read the spec of an adaptation and check its options against the checkpoint's defaults.

    If it names no checkpoint, it gets the universal search space.

    Raises:
        UnknownName: UNKNOWN_CHECKPOINT.
        InvalidInput: CHECKPOINT_AMBIGUOUS, REQUEST_ID_TOO_LONG, TIMEOUT_INVALID, DEADLINE_INVALID,
            PRIORITY_INVALID; wrong options or classes; a budget out of reach.
    """
    checkpoint = _read_choice(message.checkpoint, checkpoints, universal)
    overrides = _read_options(message.options)
    if checkpoint == UNIVERSAL and universal is not None:
        names, defaults = list(universal.checkpoints), universal.config.defaults
        digest = universal.digest
        check_reachable(universal, checkpoints, defaults.replace(overrides))
    else:
        names, defaults = [checkpoint], checkpoints[checkpoint].defaults
        digest = checkpoints[checkpoint].digest
    for name in names:
        card = checkpoints[name]
        check_options(defaults.replace(overrides), card.input, card.space)
    if _longer(message.request_id, MAX_REQUEST_ID):
        text = f"the request id has more than {MAX_REQUEST_ID} bytes"
        raise InvalidInput.single("spec.request_id", "REQUEST_ID_TOO_LONG", text)
    return Spec(
        checkpoint=checkpoint,
        checkpoint_digest=digest,
        overrides=overrides,
        seed=message.seed,
        classes=_read_classes(message.classes, limits),
        request_id=message.request_id,
        timeout=_read_seconds(message, "timeout", "TIMEOUT_INVALID"),
        deadline=_read_seconds(message, "deadline", "DEADLINE_INVALID"),
        priority=message.priority,
        reuse=message.reuse,
    )


def _read_seconds(
    message: adaptation_pb2.AdaptationSpec, name: Literal["timeout", "deadline"], reason: str
) -> float | None:
    """Return the seconds of a duration; None if it is not set."""
    if not message.HasField(name):
        return None
    seconds: float = getattr(message, name).ToNanoseconds() / 1e9
    if not 0 < seconds <= MAX_SECONDS:
        text = f"the {name} must be above 0 and at most {MAX_SECONDS} s"
        raise InvalidInput.single(f"spec.{name}", reason, text)
    return seconds


def _read_choice(name: str, checkpoints: Mapping[str, object], universal: Universal | None) -> str:
    """Return the name of the checkpoint, or of the universal search space.

    Raises:
        InvalidInput: CHECKPOINT_AMBIGUOUS.
        UnknownName: UNKNOWN_CHECKPOINT.
    """
    if universal is not None:
        known = {**checkpoints, UNIVERSAL: universal}
        return read_checkpoint_name(name or UNIVERSAL, known)
    if name or len(checkpoints) == 1:
        return read_checkpoint_name(name, checkpoints)
    text = f"name one of {', '.join(sorted(checkpoints))}; the server has no {UNIVERSAL_FILE}"
    raise InvalidInput.single("checkpoint", "CHECKPOINT_AMBIGUOUS", text)


def read_checkpoint_name(name: str, known: Mapping[str, object]) -> str:
    """Return the last part of a checkpoint's resource name.

    An empty name stands for the only checkpoint of a server that has one.

    Raises:
        UnknownName: UNKNOWN_CHECKPOINT; its message lists the known names.
    """
    if not name and len(known) == 1:
        return next(iter(known))
    bare = name.removeprefix("checkpoints/")
    if bare not in known:
        raise UnknownName("checkpoint", bare[:MAX_NAME], tuple(known))
    return bare


def read_id(name: str, kind: str) -> str:
    """Return the last part of `adaptations/{adaptation}` or `models/{model}`.

    kind: the singular, "adaptation" or "model".

    Raises:
        NotFound: the name has another form.
    """
    collection, slash, id_ = name[: MAX_NAME + 1].partition("/")
    if collection != f"{kind}s" or not slash or not id_ or len(name) > MAX_NAME:
        raise NotFound(kind, name[:MAX_NAME])
    return id_


def read_state(state: adaptation_pb2.AdaptationState.ValueType) -> State | None:
    """Return the state that a list is filtered by; None stands for all states.

    Raises:
        InvalidInput: STATE_UNKNOWN.
    """
    if state == adaptation_pb2.ADAPTATION_STATE_UNSPECIFIED:
        return None
    for ours, theirs in STATES.items():
        if theirs == state:
            return ours
    text = f"this server does not know state {state}; use a state of the contract"
    raise InvalidInput.single("state", "STATE_UNKNOWN", text)


def read_change(message: model_service_pb2.UpdateModelRequest, most_names: int) -> ModelChange:
    """Read a change of a model.

    Raises:
        InvalidInput: TOO_MANY_NAMES, CALLER_NAME.
    """
    return ModelChange(
        pinned=message.pinned if message.HasField("pinned") else None,
        share_with=_read_callers(message.share_with, "share_with", most_names),
        unshare=_read_callers(message.unshare, "unshare", max(most_names, LEAST_UNSHARED)),
    )


def _read_callers(names: Sequence[str], field: str, most: int) -> tuple[str, ...]:
    """Return names of callers, which need not exist."""
    if len(names) > most:
        text = f"there are {len(names)} names; at most {most} are allowed"
        raise InvalidInput.single(field, "TOO_MANY_NAMES", text)
    wrong = [index for index, name in enumerate(names) if name != EVERYBODY and not is_name(name)]
    if wrong:
        text = f"no caller has such a name; use the name of a token, or {EVERYBODY!r} for all"
        raise InvalidInput([Violation(f"{field}[{i}]", "CALLER_NAME", text) for i in wrong])
    return tuple(dict.fromkeys(names))


def read_example(
    message: example_pb2.Example, index: int, limits: Limits
) -> tuple[Example, list[Violation]]:
    """Read one example; return it with violations of the parts that a placeholder replaces.

    Violations: LABEL_TOO_LONG, LABEL_NOT_UTF8, IMAGE_MISSING, IMAGE_TOO_LARGE, TENSOR_TYPE,
    TENSOR_SHAPE.

    index: its place in the request, for the violations.
    """
    raw, field, violations = message.label, f"examples[{index}]", list[Violation]()
    label, image = raw[: limits.max_label_bytes].decode("utf-8", "replace"), PLACEHOLDER
    if len(raw) > limits.max_label_bytes:
        violations.append(_too_long(f"{field}.label", raw, limits))
    else:
        try:
            label = decode_label(raw, index)
        except InvalidInput as error:
            violations += error.violations
    try:
        image = _read_image(message, f"{field}.image", limits)
    except InvalidInput as error:
        violations += error.violations
    return Example(label, image), violations


def _read_image(message: example_pb2.Example, field: str, limits: Limits) -> Image:
    kind = message.WhichOneof("image")
    if kind is None:
        raise InvalidInput.single(field, "IMAGE_MISSING", "the example has no image; set one")
    data = message.encoded if kind == "encoded" else message.tensor.data
    if len(data) > limits.max_image_bytes:
        text = f"the image has {len(data)} bytes; at most {limits.max_image_bytes} are allowed"
        raise InvalidInput.single(field, "IMAGE_TOO_LARGE", text)
    return data if kind == "encoded" else _read_tensor(message.tensor, field)


def _read_tensor(
    tensor: example_pb2.RawTensor, field: str
) -> NDArray[np.uint8] | NDArray[np.float32]:
    dtype = DTYPES.get(tensor.type)
    if dtype is None:
        raise InvalidInput.single(field, "TENSOR_TYPE", "set the tensor's type: uint8 or float32")
    dimensions = len(tensor.shape)
    if not 2 <= dimensions <= 3:  # first: the product of many dimensions takes very long
        text = f"the tensor has {dimensions} dimensions; send {SHAPES}"
        raise InvalidInput.single(field, "TENSOR_SHAPE", text)
    shape = tuple(tensor.shape)
    if math.prod(shape) * dtype.itemsize != len(tensor.data):
        size = f"{len(tensor.data)} bytes of data"
        text = f"{size} are no {dtype.name} tensor of shape {list(shape)}; send {SHAPES}"
        raise InvalidInput.single(field, "TENSOR_SHAPE", text)
    return np.frombuffer(tensor.data, dtype=dtype).reshape(shape)


def _read_options(message: adaptation_pb2.AdaptationOptions) -> dict[str, Option]:
    unknown = unknown_fields.UnknownFieldSet(message)
    if len(unknown):
        shown = min(len(unknown), SHOWN_OPTIONS)
        numbers = ", ".join(str(unknown[i].field_number) for i in range(shown))
        text = f"this server does not know option field {numbers}; it may be older than the client"
        raise InvalidInput.single("options", "OPTION_UNKNOWN", text)
    return {field.name: value for field, value in message.ListFields()}


def _read_classes(names: Sequence[bytes], limits: Limits) -> tuple[str, ...] | None:
    if len(names) > limits.max_ways:
        text = f"{len(names)} classes are declared; at most {limits.max_ways} are allowed"
        raise InvalidInput.single("classes", "TOO_MANY_WAYS", text)
    classes, violations = list[str](), list[Violation]()
    for index, name in enumerate(names):
        field = f"classes[{index}]"
        if len(name) > limits.max_label_bytes:
            violations.append(_too_long(field, name, limits))
            continue
        try:
            classes.append(name.decode("utf-8"))
        except UnicodeDecodeError:
            text = "the class name is not valid UTF-8; encode it as UTF-8"
            violations.append(Violation(field, "LABEL_NOT_UTF8", text))
    if violations:
        raise InvalidInput(violations)
    return tuple(classes) or None


def _too_long(field: str, label: bytes, limits: Limits) -> Violation:
    text = f"the label has {len(label)} bytes; at most {limits.max_label_bytes} are allowed"
    return Violation(field, "LABEL_TOO_LONG", text)


def _longer(text: str, limit: int) -> bool:
    """Return True if a text has more bytes than the limit, without encoding a long one."""
    return len(text) > limit or len(text.encode()) > limit
