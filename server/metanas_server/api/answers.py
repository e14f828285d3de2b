"""Convert the types of the core and the server to the messages of answers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from metanas.spec.card import CheckpointCard
from metanas.spec.examples import Limits
from metanas.spec.options import Option
from metanas.spec.universal import UNIVERSAL, Universal
from metanas_protos.v1 import (
    adaptation_pb2,
    checkpoint_pb2,
    failure_pb2,
    model_pb2,
    report_pb2,
)
from metanas_server.api.convert import STATES
from metanas_server.resources import (
    AdaptationRecord,
    Failure,
    ModelRecord,
    ProgressRecord,
)

DESCRIPTION_OF_UNIVERSAL = (
    "The default: characters, drawings and photographs. The support set chooses the networks."
)


def write_adaptation(
    record: AdaptationRecord, progress: ProgressRecord | None = None
) -> adaptation_pb2.Adaptation:
    """Convert an adaptation to its message."""
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
    """Convert a progress record to its message."""
    fields = {**vars(record)}  # `asdict` copies the values, too, which takes five times as long
    time = fields.pop("time")
    return adaptation_pb2.Progress(**fields, time=_time(time))


def write_model(record: ModelRecord) -> model_pb2.Model:
    """Convert a model record to its message, without the settings of its owner."""
    return model_pb2.Model(
        name=f"models/{record.id}",
        adaptation=f"adaptations/{record.id}",
        checkpoint=f"checkpoints/{record.checkpoint}",
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        labels=record.labels,
        genotype_json=record.genotype_json,
        report=_write_report(record.report_json),
        create_time=_time(record.create_time),
    )


def write_model_for(record: ModelRecord, reader: str, scope: str | None) -> model_pb2.Model:
    """Convert a model to the message for a caller; only those that may change it see its settings.

    reader: the owner of the caller's models.
    scope: the owner whose models the caller may change; None stands for all owners.
    """
    message = write_model(record)
    if record.owner != reader:
        message.owner = record.owner
    if scope in (None, record.owner):
        message.pinned = record.pinned
        message.shared_with.extend(record.shared_with)
    return message


def _write_report(text: str) -> report_pb2.Report:
    """Convert a report in JSON to its message; `Model` has the genotype already."""
    fields: dict[str, Any] = json.loads(text)
    del fields["genotype"]
    if "architecture" not in fields:  # of an older release, whose estimate was a number
        fields["architecture"] = {}
        del fields["leave_one_out"]
    stages = fields.pop("seconds").items()
    seconds = [report_pb2.StageTime(stage=stage, seconds=value) for stage, value in stages]
    branches = fields.pop("architecture").items()
    shares = [report_pb2.Share(branch=branch, share=value) for branch, value in branches]
    return report_pb2.Report(**fields, seconds=seconds, architecture=shares)


def write_chunk(record: ModelRecord, offset: int, data: bytes, first: bool) -> model_pb2.ModelChunk:
    """Build one chunk of a model file; the first and the last chunk carry digest and size."""
    chunk = model_pb2.ModelChunk(offset=offset, data=data)
    if first or offset + len(data) == record.size_bytes:
        chunk.sha256, chunk.size_bytes = record.sha256, record.size_bytes
    return chunk


def write_checkpoint(name: str, card: CheckpointCard, limits: Limits) -> checkpoint_pb2.Checkpoint:
    """Convert the card of a checkpoint to its message."""
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


def write_universal(
    universal: Universal, cards: Mapping[str, CheckpointCard], limits: Limits
) -> checkpoint_pb2.Checkpoint:
    """Convert the universal search space to the message of a checkpoint."""
    inputs = [cards[name].input for name in universal.checkpoints]
    return checkpoint_pb2.Checkpoint(
        name=f"checkpoints/{UNIVERSAL}",
        description=DESCRIPTION_OF_UNIVERSAL,
        digest=universal.digest,
        format_version=universal.format_version,
        input=checkpoint_pb2.InputSpec(
            channels=max(each.channels for each in inputs), size=max(each.size for each in inputs)
        ),
        parameters=sum(cards[name].parameters for name in universal.checkpoints),
        defaults=_write_options(universal.config.defaults.to_dict()),
        limits=checkpoint_pb2.Limits(**asdict(limits)),
        provenance=universal.provenance,
    )


def _write_options(options: Mapping[str, Option]) -> adaptation_pb2.AdaptationOptions:
    values: Mapping[str, Any] = options
    return adaptation_pb2.AdaptationOptions(**values)


def _write_failure(failure: Failure) -> failure_pb2.Failure:
    return failure_pb2.Failure(
        code=failure.code,
        reason=failure.reason,
        message=failure.message,
        violations=[failure_pb2.Violation(**asdict(each)) for each in failure.violations],
    )


def _time(nanoseconds: int) -> Timestamp | None:
    """Convert nanoseconds since 1970; 0 means "not yet" and gives None."""
    if not nanoseconds:
        return None
    time = Timestamp()
    time.FromNanoseconds(nanoseconds)
    return time
