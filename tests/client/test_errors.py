"""The one table from faults to errors is total, and errors say what they should."""

import pickle

import grpc
import pytest

from metanas_client import (
    AdaptationCancelled,
    AdaptationFailed,
    Busy,
    ClientError,
    InvalidInput,
    NotFound,
    ServerFault,
    Unavailable,
    Violation,
)
from metanas_client.cli.exits import exit_code
from metanas_client.errors import Fault, error_for

CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def tree(kind: type[ClientError]) -> list[type[ClientError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("reason", ["", "SOMETHING_NEW"])
def test_every_code_becomes_an_error_of_the_tree(code: str, reason: str) -> None:
    error = error_for(Fault(code=code, reason=reason, message="it is so"), "host:1")
    assert type(error) in tree(ClientError)
    assert "it is so" in str(error)
    assert error.reason == (reason or code) or (isinstance(error, Unavailable) and not reason)
    assert exit_code(error) in {2, 3, 4}


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        ("INVALID_ARGUMENT", "NO_EXAMPLES", InvalidInput),
        ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE", InvalidInput),
        ("NOT_FOUND", "UNKNOWN_MODEL", NotFound),
        ("UNAVAILABLE", "", Unavailable),
        ("UNAVAILABLE", "SHUTTING_DOWN", Busy),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", Busy),
        ("CANCELLED", "", Unavailable),
        ("CANCELLED", "CANCELLED", AdaptationCancelled),
        ("FAILED_PRECONDITION", "DIVERGED", AdaptationFailed),
        ("NO_SUCH_CODE", "", ServerFault),
    ],
)
def test_the_class_says_what_kind_of_problem_it_is(
    code: str, reason: str, kind: type[ClientError]
) -> None:
    assert type(error_for(Fault(code=code, reason=reason, message="m"), "host:1")) is kind


def test_every_error_has_an_exit_code() -> None:
    for kind in tree(ClientError):
        assert exit_code(kind.__new__(kind)) in {1, 2, 3, 4}


def test_unavailable_says_where_and_how_to_start_a_server() -> None:
    text = str(Unavailable("host:1", "connection refused"))
    assert "host:1" in text
    assert "metanas-server --listen" in text


def test_many_violations_are_summarised() -> None:
    error = InvalidInput([Violation(f"examples[{i}].image", "R", "bad") for i in range(54)])
    assert str(error).splitlines()[-1] == "and 4 more"
    assert len(error.violations) == 54


def test_a_violation_names_the_file() -> None:
    violation = Violation("examples[3].image", "IMAGE_FORMAT", "no image", "cats/x.txt")
    assert str(violation) == "cats/x.txt (examples[3].image): no image"


@pytest.mark.parametrize(
    "error",
    [
        Busy("QUEUE_FULL", "the queue is full", 3.0),
        InvalidInput.single("--ways", "OUT_OF_RANGE", "must be at least 2"),
        Unavailable("localhost:1", "refused"),
    ],
)
def test_an_error_can_be_sent_to_another_process(error: ClientError) -> None:
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), sent.reason, str(sent)) == (type(error), error.reason, str(error))
