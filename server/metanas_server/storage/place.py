"""The place of the artefacts: a folder, or a bucket by its address."""

from pathlib import Path

from metanas_server.errors import StartError, StoreUnavailable
from metanas_server.storage.artefacts import Store
from metanas_server.storage.folder_store import FolderStore

ARTEFACTS, SCRATCH = "artefacts", "scratch"
BUCKET = "s3://"


def folder_of(place: str | None, data: Path) -> Path | None:
    """Return the folder of the artefacts; None if they are in a bucket.

    place: the option `artefacts`.
    data: the data folder.
    """
    if place is None:
        return data / ARTEFACTS
    return None if place.startswith(BUCKET) else Path(place)


def open_store(place: str | None, data: Path) -> Store:
    """Open the store of the artefacts; a folder is created if it is missing.

    Raises:
        StartError: S3_MISSING, STORE_UNREACHABLE: artefacts cannot be written into the bucket.
        StoreUnavailable: the folder cannot be created.
    """
    folder = folder_of(place, data)
    return _open_bucket(str(place), data / SCRATCH) if folder is None else FolderStore(folder)


def _open_bucket(address: str, scratch: Path) -> Store:
    try:
        from metanas_server.storage.s3_store import S3Store
    except ModuleNotFoundError as error:
        message = f'--artefacts {address} needs {error.name}; run: pip install "metanas-server[s3]"'
        raise StartError("S3_MISSING", message) from error
    try:
        store = S3Store(address, scratch)
        store.probe()
    except StoreUnavailable as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        message = f"--artefacts {address} cannot be used: {cause}; check the bucket and AWS_*"
        raise StartError("STORE_UNREACHABLE", message) from error
    return store
