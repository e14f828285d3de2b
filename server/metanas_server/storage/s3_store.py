"""Store artefacts in a bucket of S3 or of a server with its interface."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as Bucket

from metanas_server.errors import StoreError, StoreUnavailable
from metanas_server.storage.artefacts import (
    ARTEFACT,
    MARK,
    PROBE_BYTES,
    QUARANTINE,
    damaged,
    disk_errors,
    is_sound,
    lost,
    sha256,
)

PIECE = 2**20  # bytes between two writes of a download
CONNECT_SECONDS, REQUEST_SECONDS = 5, 60
RETRIES, RETRY_SECONDS = 2, 10
PROBE_KEY = "probe"
NO_BUCKET = "NoSuchBucket"
"""The code in the answer of S3 that tells a missing bucket from a missing key."""
ENDPOINT = re.compile(r"https?://[^/\s]")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class S3Store:
    """A bucket, or the keys below a prefix of it; see `Store`.

    The keys are digests. An artefact is created by one conditional request, so two servers that
    store the same bytes at the same time do not meet. It is read into a file of a scratch folder.
    The access comes from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, or the role of the machine.
    """

    def __init__(self, address: str, scratch: Path) -> None:
        """Use this bucket.

        address: s3://BUCKET or s3://BUCKET/PREFIX.
        scratch: folder for artefacts while they are open; created if it is missing.

        Raises:
            StoreUnavailable: STORE_FAILED, the folder cannot be created, or a variable is wrong.
        """
        self._address = address
        self._scratch = scratch
        with disk_errors():
            scratch.mkdir(parents=True, exist_ok=True)
        endpoints = {name: os.environ[name] for name in ENDPOINTS if os.environ.get(name)}
        for name, value in endpoints.items():
            if not ENDPOINT.match(value):
                message = f"{name} must be http://HOST:PORT or https://HOST:PORT"
                raise StoreUnavailable("STORE_FAILED", message)
        is_http = any(value.startswith("http://") for value in endpoints.values())
        with _s3_errors():
            self._bucket = Bucket.from_url(
                address,
                checksum_algorithm="SHA256",
                client_options={
                    "allow_http": is_http,
                    "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                    "timeout": timedelta(seconds=REQUEST_SECONDS),
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                },
            )

    @property
    def name(self) -> str:
        return self._address

    def put(self, *parts: bytes | memoryview) -> str:
        digest = sha256(parts)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        if not self._create(digest, content) and not is_sound(self, digest):
            with _s3_errors():
                self._bucket.put(digest, content, use_multipart=False)
        return digest

    def copy(self, digest: str, source: Path) -> None:
        with disk_errors():
            content = source.read_bytes()
        if self.put(content) != digest:
            raise damaged(digest)

    @contextmanager
    def open(self, digest: str) -> Iterator[Path]:
        with ExitStack() as opened:
            with disk_errors():
                folder = opened.enter_context(TemporaryDirectory(dir=self._scratch))
            path = Path(folder, digest)
            if self._download(digest, path) != digest:
                raise damaged(digest)
            yield path

    def check(self, digest: str) -> None:
        if sha256(self._pieces(digest)) != digest:
            raise damaged(digest)

    def digests(self) -> set[str]:
        return self._below("")

    def isolated(self) -> set[str]:
        return self._below(QUARANTINE)

    def remove(self, digest: str) -> None:
        with suppress(FileNotFoundError), _s3_errors(may_lack_key=True):
            self._bucket.delete(digest)

    def isolate(self, digest: str) -> None:
        with suppress(FileNotFoundError), _s3_errors(may_lack_key=True):
            self._bucket.rename(digest, f"{QUARANTINE}/{digest}")

    def release(self, digest: str) -> None:
        if not self._exists(digest) and self._is_sound_in_quarantine(digest):
            with _s3_errors():
                self._bucket.rename(f"{QUARANTINE}/{digest}", digest)

    def clean(self) -> None:
        with disk_errors():
            for path in list(self._scratch.iterdir()):
                shutil.rmtree(path)

    def probe(self) -> None:
        with _s3_errors():
            self._bucket.put(PROBE_KEY, bytes(PROBE_BYTES), use_multipart=False)
            self._bucket.delete(PROBE_KEY)

    def mark(self) -> str:
        try:
            return b"".join(self._pieces(MARK)).decode("ascii", "replace")
        except StoreUnavailable:
            raise
        except StoreError:
            return ""

    def set_mark(self, mark: str, *, replace: bool = False) -> str:
        if replace:
            with _s3_errors():
                self._bucket.put(MARK, mark.encode(), use_multipart=False)
            return mark
        return mark if self._create(MARK, mark.encode()) else self.mark()

    def _create(self, key: str, content: bytes | memoryview) -> bool:
        """Create an artefact; return False if there is one already."""
        try:
            with _s3_errors():
                self._bucket.put(key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def _download(self, digest: str, path: Path) -> str:
        """Write an artefact to a file, and return the digest of its bytes."""
        found = hashlib.sha256()
        with disk_errors(), path.open("wb") as file:
            for piece in self._pieces(digest):
                found.update(piece)
                file.write(piece)
        return found.hexdigest()

    def _pieces(self, digest: str, folder: str = "") -> Iterator[bytes]:
        """Yield the bytes of an artefact."""
        try:
            with _s3_errors(may_lack_key=True):
                for piece in self._bucket.get(f"{folder}{digest}").stream(PIECE):
                    yield bytes(piece)
        except FileNotFoundError as error:
            raise lost(digest) from error

    def _exists(self, digest: str) -> bool:
        try:
            with _s3_errors(may_lack_key=True):
                self._bucket.head(digest)
        except FileNotFoundError:
            return False
        return True

    def _is_sound_in_quarantine(self, digest: str) -> bool:
        try:
            return sha256(self._pieces(digest, f"{QUARANTINE}/")) == digest
        except StoreUnavailable:
            raise
        except StoreError:
            return False

    def _below(self, folder: str) -> set[str]:
        """Return the digests of the artefacts directly below a folder."""
        with _s3_errors():
            paths = (each["path"] for page in self._bucket.list(folder) for each in page)
            names = {path.removeprefix(folder).lstrip("/") for path in paths}
        return {name for name in names if ARTEFACT.fullmatch(name)}


@contextmanager
def _s3_errors(*, may_lack_key: bool = False) -> Iterator[None]:
    """Turn the errors of the bucket into `StoreUnavailable`, except for those of a name.

    may_lack_key: FileNotFoundError stays for a missing key; a missing bucket is an error anyway.
    """
    try:
        yield
    except AlreadyExistsError:
        raise
    except FileNotFoundError as error:
        if NO_BUCKET in str(error):
            raise _unavailable() from FileNotFoundError("the bucket does not exist")
        if may_lack_key:
            raise
        raise _unavailable() from error
    except BaseError as error:
        raise _unavailable() from error


def _unavailable() -> StoreUnavailable:
    message = "the server's bucket cannot be used now; try again shortly"
    return StoreUnavailable("STORE_FAILED", message)
