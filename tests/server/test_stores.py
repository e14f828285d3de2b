"""The contract of the stores: a folder, and a bucket of an S3 server."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from metanas_server.errors import StartError, StoreError, StoreUnavailable
from metanas_server.storage.artefacts import Store, sha256
from metanas_server.storage.folder_store import FolderStore
from metanas_server.storage.place import open_store
from metanas_server.storage.s3_store import S3Store
from tests.server.s3 import Bucket

CONTENT = b"content" * 1000
DIGEST = sha256((CONTENT,))


@dataclass
class Place:
    """A store, and the function that writes bytes under a name past it."""

    store: Store
    write: Callable[[str, bytes], object]


@pytest.fixture
def s3(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> S3Store:
    """A store in a part of the bucket of its own."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://bucket/{abs(hash(request.node.name))}", tmp_path)
    assert isinstance(store, S3Store)
    return store


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        folder = FolderStore(tmp_path / "a" / "b")
        return Place(folder, lambda name, content: (folder.folder / name).write_bytes(content))
    s3: S3Store = request.getfixturevalue("s3")
    return Place(s3, lambda name, content: s3._bucket.put(name, content))


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value.reason


def read(store: Store, digest: str) -> bytes:
    with store.open(digest) as path:
        return path.read_bytes()


def test_bytes_come_back_until_they_are_removed(place: Place) -> None:
    store = place.store
    assert store.put(b"con", memoryview(b"tent")) == store.put(b"content") == sha256((b"content",))
    empty = store.put(b"")
    digest = store.put(CONTENT)
    assert read(store, digest) == CONTENT
    store.check(digest)
    assert store.digests() == {sha256((b"content",)), empty, digest}
    store.remove(digest)
    store.remove(digest)
    assert store.digests() == {sha256((b"content",)), empty}
    for look in (store.check, lambda name: read(store, name)):
        assert reason(lambda look=look: look(digest)) == "ARTEFACT_LOST"  # type: ignore[misc]


def test_changed_bytes_are_found_and_replaced(place: Place) -> None:
    store = place.store
    digest = store.put(CONTENT)
    place.write(digest, CONTENT[:-1])
    for look in (store.check, lambda name: read(store, name)):
        assert reason(lambda look=look: look(digest)) == "ARTEFACT_DAMAGED"  # type: ignore[misc]
    assert store.put(CONTENT) == digest
    assert read(store, digest) == CONTENT


def test_copies_are_checked(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    place.store.copy(DIGEST, file)
    assert read(place.store, DIGEST) == CONTENT
    assert reason(lambda: place.store.copy("0" * 64, file)) == "ARTEFACT_DAMAGED"


def test_quarantine_keeps_bytes_and_gives_sound_ones_back(place: Place) -> None:
    store = place.store
    digest, other = store.put(CONTENT), store.put(b"other")
    for _ in range(2):
        store.isolate(digest)
    assert store.digests() == {other}
    assert store.isolated() == {digest}
    store.release(digest)
    assert read(store, digest) == CONTENT
    assert store.isolated() == set()
    store.isolate(digest)
    place.write(f"quarantine/{digest}", b"damaged")
    store.release(digest)
    store.release("1" * 64)
    assert store.isolated() == {digest}
    assert store.digests() == {other}


def test_equal_bytes_at_the_same_time_are_one_artefact(place: Place) -> None:
    with ThreadPoolExecutor(8) as threads:
        digests = set(threads.map(lambda _: place.store.put(CONTENT), range(16)))
    assert place.store.digests() == digests == {DIGEST}
    assert read(place.store, DIGEST) == CONTENT


def test_cleaning_and_probing_leave_everything_else(place: Place) -> None:
    digest = place.store.put(CONTENT)
    place.write("notes.txt", b"of a person")
    place.store.probe()
    place.store.clean()
    assert place.store.digests() == {digest}
    assert read(place.store, digest) == CONTENT


def test_the_first_mark_stays_until_it_is_replaced(place: Place) -> None:
    store = place.store
    digest = store.put(CONTENT)
    assert store.mark() == ""
    with ThreadPoolExecutor(8) as threads:
        marks = set(threads.map(lambda number: store.set_mark(f"{number:032}"), range(16)))
    assert marks == {store.mark()}
    assert store.set_mark("other") == store.mark() != "other"
    assert store.set_mark("other", replace=True) == store.mark() == "other"
    store.clean()
    assert store.digests() == {digest}


def test_a_bucket_that_fails_is_unavailable(bucket: Bucket, s3: S3Store, tmp_path: Path) -> None:
    digest = s3.put(CONTENT)
    calls: list[Callable[[], object]] = [
        lambda: s3.put(b"new"),
        lambda: s3.check(digest),
        lambda: read(s3, digest),
        lambda: s3.remove(digest),
        lambda: s3.isolate(digest),
        lambda: s3.release(digest),
        s3.digests,
        s3.probe,
        s3.mark,
        lambda: s3.set_mark("mark"),
    ]
    for status in ("507 Insufficient Storage", "403 Forbidden"):
        with bucket.failing(status):
            for call in calls:
                with pytest.raises(StoreUnavailable) as caught:
                    call()
                assert (caught.value.reason, bool(caught.value.retry_seconds)) == (
                    "STORE_FAILED",
                    True,
                )
            with pytest.raises(StartError, match="check the bucket") as refused:
                open_store("s3://bucket/new", tmp_path)
            assert refused.value.reason == "STORE_UNREACHABLE"
    assert read(s3, digest) == CONTENT
    assert not list((tmp_path / "scratch").iterdir())


def test_a_bucket_that_does_not_exist(s3: S3Store, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="the bucket does not exist") as refused:
        open_store("s3://nobucket/server", tmp_path)
    assert refused.value.reason == "STORE_UNREACHABLE"
    missing = S3Store("s3://nobucket/server", tmp_path / "scratch")
    calls: list[Callable[[], object]] = [
        lambda: missing.put(CONTENT),
        lambda: missing.check(DIGEST),
        lambda: read(missing, DIGEST),
        lambda: missing.remove(DIGEST),
        lambda: missing.isolate(DIGEST),
        missing.digests,
        missing.probe,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()


@pytest.mark.parametrize("endpoint", ["rubbish", "http://", "127.0.0.1:9000"])
def test_an_endpoint_that_is_no_address(
    endpoint: str, s3: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StartError, match="AWS_ENDPOINT_URL must be http://HOST:PORT") as caught:
        open_store("s3://bucket", tmp_path)
    assert caught.value.reason == "STORE_UNREACHABLE"


def test_a_bucket_that_nobody_serves(
    s3: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StartError) as caught:
        open_store("s3://bucket", tmp_path)
    assert caught.value.reason == "STORE_UNREACHABLE"
    assert "Debug" not in str(caught.value)
