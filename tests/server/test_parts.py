"""The parts that can be tried by themselves: store, records, support sets, intake, the table."""

import json
import pickle
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metanas import errors as core
from metanas.errors import InvalidInput, Violation
from metanas.spec.examples import Example, Limits
from metanas_server import errors as service
from metanas_server.api import answers
from metanas_server.api.upload import OVERHEAD, Intake, UploadBudget
from metanas_server.errors import (
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from metanas_server.records.address import open_database
from metanas_server.records.records import Records
from metanas_server.resources import AdaptationRecord, ModelRecord
from metanas_server.status import code_of, describe, to_status
from metanas_server.storage import support_file
from metanas_server.storage.archive import Archive, sweep
from metanas_server.storage.folder_store import FolderStore

RECORD = AdaptationRecord(
    id="one",
    checkpoint="grey",
    overrides={"steps": 3, "weight_lr": 0.5, "bilevel": True},
    seed=2**32 - 1,
    classes=("a", "ä"),
    labels=("a", "ä"),
    example_count=2,
    support="s" * 64,
    request_id="",
    request_digest="d",
    timeout=1.5,
    create_time=2**62,
    trace=f"00-{16 * 'ab'}-{8 * 'cd'}-01",
)
MODEL = ModelRecord(
    id="one",
    checkpoint="grey",
    sha256="m" * 64,
    size_bytes=3,
    labels=("a", "ä"),
    genotype_json="{}",
    report_json="{}",
    create_time=5,
)

SHAPES = arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4)
IMAGES: st.SearchStrategy[Any] = (
    st.binary() | arrays.arrays(np.uint8, SHAPES) | arrays.arrays(np.float32, SHAPES)
)


@given(st.lists(st.builds(Example, st.text(), IMAGES)))
def test_a_support_set_comes_back_as_it_was(examples: list[Example]) -> None:
    packed = b"".join(support_file.pack(examples))
    for ours, theirs in zip(support_file.unpack(packed), examples, strict=True):
        assert ours.label == theirs.label
        assert type(ours.image) is type(theirs.image)
        np.testing.assert_array_equal(np.asarray(ours.image), np.asarray(theirs.image))
        assert np.asarray(ours.image).dtype == np.asarray(theirs.image).dtype
    assert b"".join(support_file.pack(support_file.unpack(packed))) == packed


def test_a_sweep_deletes_known_garbage_only(tmp_path: Path) -> None:
    records = Records(open_database(tmp_path / "records"))
    store = FolderStore(tmp_path / "artefacts")
    needed, unknown, loose, isolated = (store.put(each) for each in (b"n", b"u", b"l", b"i"))
    records.files.loosen(loose)
    records.insert(replace(RECORD, support=needed))
    records.insert(replace(RECORD, id="two", support=isolated))
    store.isolate(isolated)
    (store.folder / f"{needed}.0123abcd.partial").touch()
    (store.folder / "lost+found").mkdir()
    (store.folder / "notes.txt").touch()
    assert sweep(records, store) == {unknown}
    names = {path.name for path in store.folder.iterdir()}
    assert names == {needed, unknown, isolated, "quarantine", "lost+found", "notes.txt"}
    assert records.files.loose() == set()
    records.close()


async def test_the_record_of_a_model_goes_before_its_file(tmp_path: Path) -> None:
    records = Records(open_database(tmp_path / "records"))
    store = FolderStore(tmp_path / "artefacts")
    model = replace(MODEL, sha256=store.put(b"onnx"))
    records.insert(RECORD)
    records.update(RECORD, model=model)
    changes = list[bool]()

    async def on_change() -> None:
        changes.append(archive.is_writable)

    archive = Archive(records, store, on_change)
    with closing(sqlite3.connect(tmp_path / "records", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await archive.delete_model("one", None)
        assert store.path(model.sha256).exists()
        with pytest.raises(StoreUnavailable):
            archive.check_writable()
    await archive.until_writable()
    await archive.delete_model("one", None)
    with pytest.raises(NotFound):
        records.models.get("one", None)
    assert not store.path(model.sha256).exists()
    await archive.close()
    assert changes == [False, True]


def test_an_intake_gives_its_bytes_back() -> None:
    most = 2 * OVERHEAD + 12
    budget = UploadBudget(most, most, 2)
    with Intake(Limits(), budget, "x") as first:
        first.add(Example("a", b"123456"))
        with Intake(Limits(), budget, "y") as second, pytest.raises(Overloaded):
            second.add(Example("a", b"123456"))
        with Intake(Limits(), budget, "y") as third:
            third.add(Example("a", b"1234"))
    budget.take("x", most)


def test_a_caller_has_a_number_of_uploads() -> None:
    budget = UploadBudget(100, 100, 1)
    budget.open("x")
    budget.open("y")
    with pytest.raises(Overloaded, match="1 uploads in progress"):
        budget.open("x")
    budget.close("x", 0)
    budget.open("x")


def test_packing_copies_no_image() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    _, data = support_file.pack([Example("a", image)])
    assert np.shares_memory(np.frombuffer(data, np.uint8), image)


def test_one_caller_cannot_take_the_share_of_another() -> None:
    budget = UploadBudget(100, 60, 1)
    budget.open("x")
    budget.take("x", 60)
    with pytest.raises(Overloaded, match="your uploads"):
        budget.take("x", 1)
    budget.take("y", 40)
    with pytest.raises(Overloaded, match="too many uploads"):
        budget.take("z", 1)
    budget.close("x", 60)
    budget.take("z", 60)


def test_an_intake_gives_up_when_all_is_wrong() -> None:
    with Intake(Limits(), UploadBudget(2**20, 2**20, 1), "x") as intake:
        for index in range(19):
            intake.add(Example("a", b"?"), [Violation(f"examples[{index}]", "R", "m")])
        with pytest.raises(InvalidInput):
            intake.add(Example("a", b"?"), [Violation("examples[19]", "R", "m")])


ERRORS: list[tuple[core.MetanasError, grpc.StatusCode]] = [
    (InvalidInput.single("f", "R", "m"), grpc.StatusCode.INVALID_ARGUMENT),
    (core.UnknownName("op", "x", ("y",)), grpc.StatusCode.NOT_FOUND),
    (core.CheckpointError("CHECKPOINT_DAMAGED", "m"), grpc.StatusCode.FAILED_PRECONDITION),
    (core.Cancelled(), grpc.StatusCode.CANCELLED),
    (core.Diverged(), grpc.StatusCode.FAILED_PRECONDITION),
    (core.OutOfMemory("m"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (core.ExportMismatch("m"), grpc.StatusCode.INTERNAL),
    (core.DatasetError("DATASET_MISSING", "m"), grpc.StatusCode.INTERNAL),
    (service.NotFound("model", "models/x"), grpc.StatusCode.NOT_FOUND),
    (service.OutOfRange("R", "m"), grpc.StatusCode.OUT_OF_RANGE),
    (service.NotEnded("R", "m"), grpc.StatusCode.FAILED_PRECONDITION),
    (service.Overloaded("R", "m"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (service.Unavailable("R", "m"), grpc.StatusCode.UNAVAILABLE),
    (service.TimedOut("R", "m"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (service.WorkerLost("R", "m"), grpc.StatusCode.INTERNAL),
    (service.StoreUnavailable("STORE_FULL", "m"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (service.StoreUnavailable("STORE_BUSY", "m"), grpc.StatusCode.UNAVAILABLE),
    (service.StoreError("ARTEFACT_LOST", "m"), grpc.StatusCode.DATA_LOSS),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_error_has_its_code(error: core.MetanasError, code: grpc.StatusCode) -> None:
    failure = describe(error)
    assert code_of(failure) is code
    status = to_status(failure)
    assert status.code == code.value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[-1].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "metanas")
    # a worker sends its errors through a pipe
    assert describe(pickle.loads(pickle.dumps(error))) == failure


@given(
    st.lists(st.tuples(st.text(), st.text(max_size=2000)), min_size=1, max_size=60),
    st.integers(0, 10**6),
)
def test_no_status_is_too_large_for_trailers(faults: list[tuple[str, str]], omitted: int) -> None:
    violations = tuple(Violation(field, "R", message) for field, message in faults)
    failure = describe(InvalidInput(violations, omitted))
    status = to_status(failure)
    assert status.ByteSize() < 5000
    request, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    assert status.details[-1].Unpack(info)
    shown = len(request.field_violations) if status.details[0].Unpack(request) else 0
    assert shown + int(info.metadata.get("violations_omitted", "0")) == len(faults) + omitted


def test_the_report_of_an_older_release_is_shown() -> None:
    """Its estimate was a number, and it had no shares of several networks."""
    report = {"genotype": {}, "seconds": {"adapt": 1.5}, "ways": 3, "leave_one_out": 0.5}
    shown = answers.write_model(replace(MODEL, report_json=json.dumps(report))).report
    assert (shown.ways, shown.seconds[0].seconds) == (3, 1.5)
    assert not shown.HasField("leave_one_out")
