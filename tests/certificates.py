"""Certificates for the tests of TLS, made by openssl."""

import subprocess
from pathlib import Path


def certificate(folder: Path, name: str, authority: Path | None = None, uri: str = "") -> Path:
    """A certificate for 127.0.0.1, signed by an authority or by itself; its key lies beside it."""
    path, key = folder / f"{name}.pem", folder / f"{name}.key"
    names = "subjectAltName=IP:127.0.0.1" + (uri and f",URI:{uri}")
    more: list[object] = ["-addext", names]
    if authority is not None:
        more += ["-CA", authority, "-CAkey", authority.with_suffix(".key")]
    arguments = (
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", 2, "-subj", f"/CN={name}", "-keyout", key, "-out", path, *more),
    )
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    return path
