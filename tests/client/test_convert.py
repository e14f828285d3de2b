"""Requests say what was asked for; replies come back as plain values."""

from dataclasses import replace
from typing import cast

import pytest

from metanas_client import InvalidInput, Progress, State, convert
from metanas_client.convert import OPTION_TYPES, Job
from metanas_client.errors import Fault, Violation
from metanas_client.resources import AdaptationInfo, Option
from metanas_client.support import read_contents, read_support
from metanas_protos.v1 import adaptation_pb2, adaptation_service_pb2, failure_pb2
from metanas_protos.v1.option_help import OPTION_HELP

SUPPORT = read_support({"a": [b"x"], "b": [b"y"]})


def job(*, seed: int = 0, timeout: float | None = None, **options: Option) -> Job:
    return Job(support=SUPPORT, options=options, seed=seed, request_id="r", timeout=timeout)


def test_every_option_of_the_contract_can_be_set() -> None:
    fields = adaptation_pb2.AdaptationOptions.DESCRIPTOR.fields
    assert {field.name for field in fields} == OPTION_TYPES.keys() == OPTION_HELP.keys()


def test_an_option_with_a_typing_error_gets_a_suggestion() -> None:
    with pytest.raises(InvalidInput, match="Did you mean tuning_steps"):
        convert.spec_message(job(tunning_steps=1))


def test_only_what_is_given_is_set() -> None:
    spec = convert.spec_message(job(steps=0, weight_lr=1, bilevel=False))
    assert {field.name: value for field, value in spec.options.ListFields()} == {
        "steps": 0,
        "weight_lr": 1.0,
        "bilevel": False,
    }
    assert not spec.HasField("timeout")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (job(learning_rate=1.0), "OPTION_UNKNOWN"),
        (job(steps=1.5), "OPTION_TYPE"),
        (job(steps=True), "OPTION_TYPE"),
        (job(bilevel=1), "OPTION_TYPE"),
        (job(steps=2**40), "OPTION_OUT_OF_RANGE"),
        (job(seed=-1), "SEED_OUT_OF_RANGE"),
        (job(seed=2**32), "SEED_OUT_OF_RANGE"),
        (job(seed=cast("int", 1.5)), "SEED_OUT_OF_RANGE"),
        (job(seed=cast("int", "1")), "SEED_OUT_OF_RANGE"),
        (replace(job(), priority=10), "PRIORITY_OUT_OF_RANGE"),
        (replace(job(), priority=-1), "PRIORITY_OUT_OF_RANGE"),
        (job(timeout=0), "TIMEOUT_OUT_OF_RANGE"),
        (job(timeout=float("nan")), "TIMEOUT_OUT_OF_RANGE"),
        (replace(job(), deadline=-1), "TIMEOUT_OUT_OF_RANGE"),
        (replace(job(), checkpoint="\udcff"), "NOT_UTF8"),
        (replace(job(), request_id="\udcff"), "NOT_UTF8"),
        (job(precision="\udcff"), "NOT_UTF8"),
    ],
)
def test_what_a_message_cannot_carry_is_refused_here(bad: Job, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert.spec_message(bad)
    assert caught.value.reason == reason


def test_the_spec_comes_first_and_every_example_once() -> None:
    requests = list(
        convert.create_requests(convert.spec_message(job(timeout=1.5)), read_contents(SUPPORT))
    )
    assert [request.WhichOneof("part") for request in requests] == ["spec", "example", "example"]
    assert requests[0].spec.timeout.ToMilliseconds() == 1500
    assert list(requests[0].spec.classes) == [b"a", b"b"]


def test_a_failed_adaptation_keeps_its_reasons() -> None:
    message = adaptation_pb2.Adaptation(
        name="adaptations/1",
        state=adaptation_pb2.ADAPTATION_STATE_FAILED,
        failure=failure_pb2.Failure(
            code=3,
            reason="IMAGE_TRUNCATED",
            message="bad",
            violations=[failure_pb2.Violation(field="examples[1].image", reason="R", message="m")],
        ),
    )
    info = convert.watch_event(adaptation_service_pb2.WatchAdaptationResponse(adaptation=message))
    assert isinstance(info, AdaptationInfo)
    assert info.state is State.FAILED
    assert info.state.final
    assert info.fault == Fault(
        code="INVALID_ARGUMENT",
        reason="IMAGE_TRUNCATED",
        message="bad",
        violations=(Violation("examples[1].image", "R", "m"),),
    )


def test_measurements_that_were_not_taken_are_none() -> None:
    message = adaptation_pb2.Progress(
        sequence=3, stage="adapt", step=1, steps=2, loss=0.0, attempt=1
    )
    found = convert.watch_event(adaptation_service_pb2.WatchAdaptationResponse(progress=message))
    assert found == Progress(sequence=3, stage="adapt", step=1, steps=2, loss=0.0)


def test_events_and_codes_of_later_servers_do_no_harm() -> None:
    assert convert.watch_event(adaptation_service_pb2.WatchAdaptationResponse()) is None
    assert convert.code_name(999) == "UNKNOWN"
