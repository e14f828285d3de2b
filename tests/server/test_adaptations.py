"""Adaptations: create, watch, cancel, list and delete them."""

import hashlib
import json
import threading
import uuid

import grpc
import onnx
import pytest

from metanas_protos.v1.adaptation_service_pb2 import (
    DeleteAdaptationRequest,
    ListAdaptationsRequest,
)
from tests.server.calls import (
    CANCELLED,
    FAILED,
    LONG,
    RUNNING,
    SUCCEEDED,
    Api,
    image,
    images,
    refused,
    spec,
)


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-stack=1",)


def test_a_watch_has_every_progress_and_the_model_can_be_downloaded(api: Api) -> None:
    answer = api.adapt(spec(seed=7), images())
    assert [answer.events[i].HasField("adaptation") for i in (0, -1)] == [True, True]
    progress = [event.progress for event in answer.events if event.HasField("progress")]
    assert [each.sequence for each in progress] == list(range(1, len(progress) + 1))
    assert {"decode", "adapt", "tune", "export", "check"} <= {each.stage for each in progress}
    steps = [each for each in progress if each.stage == "adapt" and each.step]
    assert [each.step for each in steps] == [1, 2]
    assert all(each.HasField("loss") and each.HasField("temperature") for each in steps)
    assert not progress[0].HasField("loss")

    model = answer.model
    assert hashlib.sha256(answer.onnx).hexdigest() == model.sha256
    assert len(answer.onnx) == model.size_bytes
    onnx.checker.check_model(onnx.load_from_string(answer.onnx))
    assert list(model.labels) == ["a", "b"]
    assert {"normal", "reduce"} == set(json.loads(model.genotype_json))
    assert model.report.seed == 7
    assert answer.adaptation.model == model.name
    assert answer.adaptation.attempts == 1


def test_the_same_request_gives_the_same_bytes(api: Api) -> None:
    digests = {api.adapt(spec(seed=3), images()).model.sha256 for _ in range(2)}
    assert len(digests) == 1
    assert api.adapt(spec(seed=3), images(seed=90)).model.sha256 not in digests


def test_create_answers_at_once_and_goes_on_alone(api: Api) -> None:
    created = api.create(spec(), images())
    assert created.example_count == 4
    ended = api.end_of(created.name)
    assert ended.state == SUCCEEDED
    assert ended.create_time.ToNanoseconds() <= ended.start_time.ToNanoseconds()
    assert ended.start_time.ToNanoseconds() < ended.end_time.ToNanoseconds()
    assert api.get(created.name) == ended
    assert ended.progress.stage == "check"


def test_declared_classes_give_the_order_of_the_outputs(api: Api) -> None:
    declared = spec(classes=[b"b", "ä".encode(), b"a"])
    examples = [*images(), image("ä", 7), image("ä", 8), image("ä", 9)]
    answer = api.adapt(declared, examples)
    assert list(answer.model.labels) == ["b", "ä", "a"]
    assert answer.model.report.shots == [2, 3, 2]
    assert list(answer.adaptation.labels) == ["b", "ä", "a"]


def test_watching_begins_where_one_likes(api: Api) -> None:
    name = api.create(spec(), images()).name
    everything = list(api.watch(name))
    assert everything[-1].adaptation.state == SUCCEEDED
    again = list(api.watch(name))
    numbers = [e.progress.sequence for e in again if e.HasField("progress")]
    assert numbers == list(range(1, len(numbers) + 1))
    later = [e.progress.sequence for e in api.watch(name, after=3) if e.HasField("progress")]
    assert later == numbers[3:]
    assert again[0].HasField("adaptation")
    assert again[-1].adaptation == everything[-1].adaptation


def test_cancelling_stops_between_two_steps_and_the_next_is_served(api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    api.until_running(name)
    assert api.cancel(name).state in (RUNNING, CANCELLED)
    ended = api.end_of(name)
    assert ended.state == CANCELLED
    assert ended.failure.reason == "CANCELLED"
    assert ended.progress.step < 500
    api.serves()
    assert api.cancel(name) == ended  # no error, and nothing changes


def test_cancelling_what_still_waits(api: Api) -> None:
    first = api.create(spec(options=LONG), images()).name
    second = api.create(spec(), images()).name
    assert api.cancel(second).state == CANCELLED
    assert api.get(second).attempts == 0
    api.cancel(first)
    assert api.end_of(first).state == CANCELLED


def test_dropping_a_watch_cancels_nothing(api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    api.until_running(name)  # drops its watch
    assert api.get(name).state == RUNNING
    api.cancel(name)
    api.end_of(name)


def test_a_timeout_of_the_request(api: Api) -> None:
    limited = spec(options=LONG)
    limited.timeout.FromMilliseconds(300)
    failure = api.failure(limited, images())
    assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert failure.reason == "ADAPTATION_TIMEOUT"
    api.serves()


def test_a_failed_adaptation_can_be_looked_at_later(api: Api) -> None:
    broken = image("b")
    broken.encoded = b"no image"
    created = api.create(spec(), [image("a"), broken])
    ended = api.end_of(created.name)
    assert ended.state == FAILED
    assert ended.failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [(v.field, v.reason) for v in ended.failure.violations] == [
        ("examples[1].image", "IMAGE_FORMAT")
    ]
    assert not ended.model


def test_a_request_id_never_runs_twice(api: Api) -> None:
    once = spec(request_id=str(uuid.uuid4()))
    created = api.create(once, images())
    assert api.create(once, images()).name == created.name
    ended = api.end_of(created.name)
    assert ended.attempts == 1
    assert ended.request_id == once.request_id
    assert api.create(once, images()) == ended


def test_the_same_request_sent_at_the_same_time(api: Api) -> None:
    once = spec(request_id=str(uuid.uuid4()))
    names = list[str]()
    callers = [
        threading.Thread(target=lambda: names.append(api.create(once, images()).name))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(names) == 8
    assert len(set(names)) == 1


def test_a_request_id_for_another_request(api: Api) -> None:
    first = spec(request_id=str(uuid.uuid4()))
    api.create(first, images())
    for other in (images(seed=5), images(("a", "c"))):
        answer = refused(api.create, first, other)
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
        assert answer.reason == "REQUEST_ID_REUSED"
    other_seed = spec(request_id=first.request_id, seed=1)
    assert refused(api.create, other_seed, images()).reason == "REQUEST_ID_REUSED"


def test_the_request_id_of_a_cancelled_adaptation_is_free_again(api: Api) -> None:
    once = spec(request_id=str(uuid.uuid4()), options=LONG)
    name = api.create(once, images()).name
    api.cancel(name)
    assert api.end_of(name).state == CANCELLED
    again = api.create(once, images()).name
    assert again != name
    api.cancel(again)
    api.end_of(again)


def test_lists_come_in_pages_the_latest_first(api: Api) -> None:
    made = [api.create(spec(seed=i), images()).name for i in range(5)]
    for name in made:
        api.end_of(name)
    names, token = list[str](), ""
    while len(names) < 5:
        page = api.adaptations.ListAdaptations(
            ListAdaptationsRequest(page_size=2, page_token=token, state=SUCCEEDED)
        )
        assert len(page.adaptations) == 2
        names += [each.name for each in page.adaptations]
        token = page.next_page_token
    assert names[:5] == made[::-1]
    for changed in ({"state": FAILED}, {}):
        request = ListAdaptationsRequest(page_size=2, page_token=token, **changed)
        answer = refused(api.adaptations.ListAdaptations, request)
        assert answer.violations == [("page_token", "PAGE_TOKEN")]
    whole = api.adaptations.ListAdaptations(ListAdaptationsRequest(page_size=500))
    assert whole.next_page_token == ""
    assert {each.name for each in whole.adaptations} >= set(made)


def test_only_what_has_ended_can_be_deleted(api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    request = DeleteAdaptationRequest(name=name)
    answer = refused(api.adaptations.DeleteAdaptation, request)
    assert answer.code is grpc.StatusCode.FAILED_PRECONDITION
    assert answer.reason == "ADAPTATION_NOT_ENDED"
    api.cancel(name)
    api.end_of(name)
    api.adaptations.DeleteAdaptation(request)
    answer = refused(api.get, name)
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ADAPTATION")


def test_a_model_outlives_its_adaptation(api: Api) -> None:
    name = api.create(spec(), images()).name
    model = api.end_of(name).model
    api.adaptations.DeleteAdaptation(DeleteAdaptationRequest(name=name))
    assert api.model(model).adaptation == name
