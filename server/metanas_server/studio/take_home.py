"""Pack a model with a page that runs it by a double click, and with a Python script."""

import base64
import io
import json
import zipfile
from pathlib import Path

from metanas_server.resources import ModelRecord

TEMPLATES = Path(__file__).parent / "templates"
DATE = (1980, 1, 1, 0, 0, 0)
"""Date of all files in the archive: the same model gives the same bytes."""


def take_home(record: ModelRecord, model: bytes, runtime: Path) -> bytes:
    """Return a zip archive with the model, a page, a script and a text that explains them.

    runtime: folder of ONNX Runtime for browsers.
    """
    files = {
        "README.txt": _template("README.txt"),
        "index.html": _page(record, model, runtime).encode(),
        "labels.txt": "".join(f"{label}\n" for label in record.labels).encode(),
        "model.onnx": model,
        "predict.py": _template("predict.py.txt"),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(f"model/{name}", DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return packed.getvalue()


def _page(record: ModelRecord, model: bytes, runtime: Path) -> str:
    """Return the page with everything inside: a file that a browser opens may load no others."""
    labels = json.dumps(record.labels).replace("<", "\\u003c")
    [script], [binary] = runtime.glob("*.mjs"), runtime.glob("*.wasm.gz")
    parts = {
        "LABELS": labels,
        "MODEL": _text(model),
        "RUNTIME": _text(script.read_bytes()),
        "WASM": _text(binary.read_bytes()),
    }
    page = _template("index.html").decode()
    for name, text in parts.items():
        page = page.replace(f"@@{name}@@", text)
    return page


def _template(name: str) -> bytes:
    return (TEMPLATES / name).read_bytes()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
