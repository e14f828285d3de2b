"""Model repository of Triton Inference Server: a folder of a model with its configuration."""

import re
from pathlib import Path

from metanas_client.errors import InvalidInput, NotWritable
from metanas_client.model import write_atomically
from metanas_client.onnx.model_file import ModelFile
from metanas_client.publish.convert import LABELS_FILE, config_of, pbtxt, with_labels

NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def check_name(name: str) -> None:
    """Check the name of a model in Triton, which is the name of a folder.

    Raises:
        InvalidInput: MODEL_NAME.
    """
    if not NAME.fullmatch(name):
        message = f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-'"
        raise InvalidInput.single("name", "MODEL_NAME", message)


def write_repository(
    folder: Path, name: str, model: ModelFile, onnx: bytes, *, force: bool = False
) -> Path:
    """Write a model into a model repository; return its folder.

    Raises:
        InvalidInput: MODEL_NAME.
        NotWritable: FILE_EXISTS without `force`, NOT_WRITABLE.
    """
    check_name(name)
    place = folder / name
    if place.exists() and not force:
        message = f"{place} exists already: give another --name, or add --force to replace it"
        raise NotWritable("FILE_EXISTS", message)
    try:
        (place / "1").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write {place}: {error.strerror or error}"
        raise NotWritable("NOT_WRITABLE", message) from error
    config = with_labels(config_of(model, name))
    write_atomically(place / "1" / "model.onnx", onnx)
    write_atomically(place / LABELS_FILE, "".join(f"{each}\n" for each in model.labels).encode())
    # a server that polls its repository takes the model when its configuration is there
    write_atomically(place / "config.pbtxt", pbtxt(config).encode())
    return place
