"""Conversion between plain values and protobuf messages. No other module builds messages."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from numbers import Integral

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import code_pb2

from metanas_client.checks import utf8
from metanas_client.errors import Fault, InvalidInput, Violation
from metanas_client.resources import (
    AdaptationInfo,
    Checkpoint,
    InputSpec,
    Limits,
    ModelInfo,
    Option,
    Progress,
    State,
    Variant,
)
from metanas_client.support import Content, RawImage, SupportSet
from metanas_data.intervals import proportion
from metanas_data.report import ClassMetrics, Confusion, LeaveOneOut, Report, SuspiciousImage
from metanas_data.suggest import nearest_or_all
from metanas_protos.v1 import (
    adaptation_pb2,
    adaptation_service_pb2,
    checkpoint_pb2,
    example_pb2,
    failure_pb2,
    model_pb2,
    model_service_pb2,
    report_pb2,
)

_STATES: Mapping[adaptation_pb2.AdaptationState.ValueType, State] = {
    adaptation_pb2.ADAPTATION_STATE_QUEUED: State.QUEUED,
    adaptation_pb2.ADAPTATION_STATE_RUNNING: State.RUNNING,
    adaptation_pb2.ADAPTATION_STATE_SUCCEEDED: State.SUCCEEDED,
    adaptation_pb2.ADAPTATION_STATE_FAILED: State.FAILED,
    adaptation_pb2.ADAPTATION_STATE_CANCELLED: State.CANCELLED,
}
_CPP_TYPES: Mapping[int, type[Option]] = {
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_STRING: str,
}
OPTION_TYPES: Mapping[str, type[Option]] = {
    each.name: _CPP_TYPES[each.cpp_type]
    for each in adaptation_pb2.AdaptationOptions.DESCRIPTOR.fields
}
"""Options that a request may set, and their types."""
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
_MAX_INT32 = 2**31 - 1
_MAX_SEED = 2**32 - 1
_MAX_PRIORITY = 9


@dataclass(frozen=True, kw_only=True)
class Job:
    """Request for an adaptation."""

    support: SupportSet
    checkpoint: str = ""
    """May be empty when the server has exactly one."""
    options: Mapping[str, Option]
    seed: int = 0
    request_id: str
    timeout: float | None = None
    """Seconds on a worker; None leaves it to the server."""
    deadline: float | None = None
    """Seconds until the end, with the time in the queue; None sets no deadline."""
    priority: int = 0
    """Order among the caller's waiting adaptations, 0 to 9."""
    reuse: bool = False
    """Allow the answer to be an earlier adaptation with the same work."""


Spec = adaptation_pb2.AdaptationSpec
"""The head of a request, to be sent as it is."""


def spec_message(job: Job) -> adaptation_pb2.AdaptationSpec:
    """Build the head of a request.

    Raises:
        InvalidInput: OPTION_UNKNOWN, OPTION_TYPE, SEED_OUT_OF_RANGE, PRIORITY_OUT_OF_RANGE,
            TIMEOUT_OUT_OF_RANGE, NOT_UTF8: values that the message cannot carry. The server checks
            all other bounds.
    """
    _check_whole("seed", job.seed, _MAX_SEED)
    _check_whole("priority", job.priority, _MAX_PRIORITY)
    return adaptation_pb2.AdaptationSpec(
        checkpoint=utf8("checkpoint", job.checkpoint),
        options=_options_message(job.options),
        seed=job.seed,
        classes=job.support.classes,
        request_id=utf8("request_id", job.request_id),
        timeout=_duration("timeout", job.timeout),
        deadline=_duration("deadline", job.deadline),
        priority=job.priority,
        reuse=job.reuse,
    )


def _check_whole(field: str, value: object, most: int) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 0 <= value <= most:  # type: ignore[operator]
        message = f"must be a whole number from 0 to {most}, not {value!r}"
        raise InvalidInput.single(field, f"{field.upper()}_OUT_OF_RANGE", message)


def _duration(field: str, seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    if not 0 < seconds < _MAX_INT32:
        raise InvalidInput.single(field, "TIMEOUT_OUT_OF_RANGE", "must be above 0 seconds")
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def create_requests(
    spec: adaptation_pb2.AdaptationSpec, contents: Iterable[Content]
) -> Iterator[adaptation_service_pb2.CreateAdaptationRequest]:
    """Yield the messages of a `CreateAdaptation` stream."""
    yield adaptation_service_pb2.CreateAdaptationRequest(spec=spec)
    for label, image in contents:
        example = _example_message(label, image)
        yield adaptation_service_pb2.CreateAdaptationRequest(example=example)


def adaptation_info(message: adaptation_pb2.Adaptation) -> AdaptationInfo:
    """Read an adaptation."""
    failed = message.HasField("failure")
    return AdaptationInfo(
        name=message.name,
        state=_STATES.get(message.state, State.QUEUED),
        checkpoint=message.checkpoint,
        seed=message.seed,
        request_id=message.request_id,
        labels=tuple(message.labels),
        examples=message.example_count,
        options=_options(message.options),
        create_time=_time(message.create_time) if message.HasField("create_time") else None,
        model=message.model or None,
        fault=_failure(message.failure) if failed else None,
    )


def watch_event(
    message: adaptation_service_pb2.WatchAdaptationResponse,
) -> AdaptationInfo | Progress | None:
    """Read one event of a watched adaptation; None for an event of a later release."""
    match message.WhichOneof("event"):
        case "adaptation":
            return adaptation_info(message.adaptation)
        case "progress":
            return _progress(message.progress)
    return None


def model_info(message: model_pb2.Model) -> ModelInfo:
    """Read a model."""
    return ModelInfo(
        name=message.name,
        adaptation=message.adaptation,
        checkpoint=message.checkpoint,
        sha256=message.sha256,
        size=message.size_bytes,
        labels=tuple(message.labels),
        genotype_json=message.genotype_json,
        report=_report(message),
        create_time=_time(message.create_time) if message.HasField("create_time") else None,
        owner=message.owner,
        pinned=message.pinned,
        shared_with=tuple(message.shared_with),
    )


def download_request(
    info: ModelInfo, offset: int, variant: Variant
) -> model_service_pb2.DownloadModelRequest:
    """Write the request for the file of a model from an offset on.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE, a number that the message cannot hold.
    """
    try:
        message = None if variant == Variant() else model_pb2.ModelVariant(**asdict(variant))
    except (TypeError, ValueError) as error:
        raise InvalidInput.single("variant", "OPTION_OUT_OF_RANGE", str(error)) from error
    return model_service_pb2.DownloadModelRequest(name=info.name, offset=offset, variant=message)


def variant_info(info: ModelInfo, first: model_pb2.ModelChunk) -> ModelInfo:
    """Return the information of a model with the file that its first chunk announces."""
    return replace(info, sha256=first.sha256, size=first.size_bytes)


def _report(model: model_pb2.Model) -> Report:
    message = model.report
    left_out = message.HasField("leave_one_out")
    return Report(
        checkpoint=message.checkpoint,
        checkpoint_digest=message.checkpoint_digest,
        prior=dict(message.prior),
        architecture={each.branch: each.share for each in message.architecture},
        over_budget=message.over_budget,
        support_digest=message.support_digest,
        seed=message.seed,
        options=_options(message.options),
        ways=message.ways,
        shots=tuple(message.shots),
        leave_one_out=_leave_one_out(message.leave_one_out) if left_out else None,
        temperature=message.temperature,
        steps=message.steps,
        tuning_steps=message.tuning_steps,
        steps_saved=message.steps_saved,
        seconds={each.stage: each.seconds for each in message.seconds},
        parameters=message.parameters,
        macs=message.macs,
        onnx_bytes=message.onnx_bytes,
        accuracy_soft=message.accuracy_soft,
        accuracy_pruned=message.accuracy_pruned,
        accuracy=message.accuracy,
        logit_gap=message.logit_gap,
        onnx_difference=message.onnx_difference,
        meta_genotype_distance=message.meta_genotype_distance,
        genotype=json.loads(model.genotype_json),
    )


def _leave_one_out(message: report_pb2.LeaveOneOut) -> LeaveOneOut:
    return LeaveOneOut(
        accuracy=message.accuracy,
        low=message.low,
        high=message.high,
        classes=tuple(
            ClassMetrics(
                label=each.label,
                images=each.images,
                recall=proportion(each.recall.hits, each.recall.count),
                precision=proportion(each.precision.hits, each.precision.count),
            )
            for each in message.classes
        ),
        confusions=tuple(
            Confusion(label=each.label, predicted=each.predicted, images=each.images)
            for each in message.confusions
        ),
        suspicious=tuple(
            SuspiciousImage(
                index=each.index,
                label=each.label,
                looks_like=each.looks_like,
                probability=each.probability,
                likely=each.likely,
            )
            for each in message.suspicious
        ),
        weakest=message.weakest if message.HasField("weakest") else None,
    )


def checkpoint(message: checkpoint_pb2.Checkpoint) -> Checkpoint:
    """Read a checkpoint."""
    limits = message.limits
    return Checkpoint(
        name=message.name,
        description=message.description,
        digest=message.digest,
        input=InputSpec(channels=message.input.channels, size=message.input.size),
        ops=tuple(message.ops),
        cells=message.cells,
        nodes=message.nodes,
        channels=tuple(message.channels),
        parameters=message.parameters,
        defaults=_options(message.defaults),
        limits=Limits(
            max_ways=limits.max_ways,
            max_shots=limits.max_shots,
            max_examples=limits.max_examples,
            max_image_bytes=limits.max_image_bytes,
            max_total_bytes=limits.max_total_bytes,
            max_pixels=limits.max_pixels,
            max_total_pixels=limits.max_total_pixels,
            min_side=limits.min_side,
            max_label_bytes=limits.max_label_bytes,
        ),
        scores={name: dict(scores.values) for name, scores in message.scores.items()},
        provenance=dict(message.provenance),
    )


def _options_message(options: Mapping[str, Option]) -> adaptation_pb2.AdaptationOptions:
    message = adaptation_pb2.AdaptationOptions()
    for name, value in options.items():
        setattr(message, name, _checked_option(name, value))
    return message


def _checked_option(name: str, value: Option) -> Option:
    field = f"options.{name}"
    kind = OPTION_TYPES.get(name)
    if kind is None:
        hint = nearest_or_all(name, OPTION_TYPES)
        raise InvalidInput.single(field, "OPTION_UNKNOWN", f"no such option.{hint}")
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InvalidInput.single(field, "OPTION_TYPE", f"must be {_WORDS[kind]}, not {value!r}")
    if type(value) is int and abs(value) > _MAX_INT32:
        raise InvalidInput.single(field, "OPTION_OUT_OF_RANGE", f"{value} is too large")
    return utf8(field, value) if isinstance(value, str) else kind(value)


def _options(message: adaptation_pb2.AdaptationOptions) -> dict[str, Option]:
    return {field.name: value for field, value in message.ListFields()}


def _example_message(label: bytes, image: bytes | RawImage) -> example_pb2.Example:
    if isinstance(image, RawImage):
        kind = example_pb2.TENSOR_TYPE_FLOAT32 if image.is_float else example_pb2.TENSOR_TYPE_UINT8
        tensor = example_pb2.RawTensor(shape=image.shape, type=kind, data=image.data)
        return example_pb2.Example(label=label, tensor=tensor)
    return example_pb2.Example(label=label, encoded=image)


def _progress(message: adaptation_pb2.Progress) -> Progress:
    return Progress(
        sequence=message.sequence,
        stage=message.stage,
        step=message.step,
        steps=message.steps,
        loss=message.loss if message.HasField("loss") else None,
        accuracy=message.accuracy if message.HasField("accuracy") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        entropy=message.entropy if message.HasField("entropy") else None,
        branch=message.branch,
        architecture=dict(message.architecture),
        genotype_json=message.genotype_json,
        attempt=message.attempt,
    )


def _failure(message: failure_pb2.Failure) -> Fault:
    return Fault(
        code=code_name(message.code),
        reason=message.reason,
        message=message.message,
        violations=tuple(Violation(v.field, v.reason, v.message) for v in message.violations),
    )


def code_name(code: int) -> str:
    """Return the canonical name of a status code, "UNKNOWN" for an unknown number."""
    if code not in code_pb2.Code.values():
        return "UNKNOWN"
    return str(code_pb2.Code.Name(code))


def _time(message: timestamp_pb2.Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
