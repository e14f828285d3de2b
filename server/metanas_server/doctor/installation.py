"""Checks of the installation: versions, extras, ONNX Runtime, devices and checkpoints."""

import platform
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from sqlalchemy import URL

from metanas.errors import MetanasError
from metanas.spec.card import CARD_FILE
from metanas.spec.universal import UNIVERSAL_FILE, read_universal
from metanas_server.config import ServerConfig
from metanas_server.cores import usable_cores
from metanas_server.doctor.findings import FAILURE, OK, WARNING, Found
from metanas_server.records.address import read_address
from metanas_server.storage.place import folder_of

DISTRIBUTIONS = (
    "metanas",
    "metanas-checkpoints",
    "metanas-data",
    "metanas-protos",
    "metanas-server",
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
EXTRAS = {
    "otel": ("opentelemetry-exporter-otlp-proto-grpc", "opentelemetry-sdk"),
    "postgres": ("psycopg",),
    "ray": ("ray",),
    "s3": ("obstore",),
    "studio": ("python-multipart", "starlette", "uvicorn"),
}
"""The distributions that each extra installs."""


def release_of(name: str) -> str:
    """Return the version of an installed distribution; empty without it."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


def versions(_: ServerConfig) -> Iterator[Found]:
    """Check that the distributions of the project have one version."""
    releases = {name: version(name) for name in DISTRIBUTIONS}
    others = ", ".join(f"{name} {version(name)}" for name in ("torch", "grpcio", "protobuf"))
    python = f"Python {platform.python_version()}, {others}"
    if len(set(releases.values())) > 1:
        listed = ", ".join(f"{name} {release}" for name, release in releases.items())
        yield FAILURE, f"{listed}: install the same version of all; {python}"
    else:
        yield OK, f"metanas-server {releases['metanas-server']}, {python}"


def extras(config: ServerConfig, release: Callable[[str], str] = release_of) -> Iterator[Found]:
    """Check that the extras of the options in use are installed.

    release: returns the version of a distribution; empty without it.
    """
    present = list[str]()
    for extra, option in _wanted(config):
        missing = [name for name in EXTRAS[extra] if not release(name)]
        if missing:
            text = f"{option} needs {' and '.join(missing)}; run: pip install"
            yield FAILURE, f'{text} "metanas-server[{extra}]"'
        else:
            present.append(extra)
    if present:
        yield OK, ", ".join(present)
    else:
        yield OK, "the options need none"


def _wanted(config: ServerConfig) -> Iterator[tuple[str, str]]:
    """Yield the extras that the options need, each with its option."""
    if config.traces is not None:
        yield "otel", "--traces"
    if isinstance(read_address(config.records, config.data), URL):
        yield "postgres", "--records"
    if config.on_ray:
        yield "ray", f"--workers {config.workers}"
    if folder_of(config.artefacts, config.data) is None:
        yield "s3", "--artefacts"
    if config.studio is not None:
        yield "studio", "--studio"


def providers(_: ServerConfig) -> Iterator[Found]:
    """Check that there is one ONNX Runtime, and name its providers."""
    installed = {name: release_of(name) for name in RUNTIMES}
    present = [f"{name} {release}" for name, release in installed.items() if release]
    if len(present) != 1:
        problem = f"{' and '.join(present)} overwrite each other" if present else "no ONNX Runtime"
        repair = f"uninstall {' and '.join(RUNTIMES)}, then install metanas-server"
        yield FAILURE, f"{problem}; {repair}, or metanas-server[gpu] for onnxruntime-gpu"
        return
    import onnxruntime  # imported by the worker processes only: the front starts without it

    yield OK, f"{present[0]} with {', '.join(onnxruntime.get_available_providers())}"


def devices(config: ServerConfig) -> Iterator[Found]:
    """Check the devices of the workers."""
    if config.on_ray:
        ray = f"Ray {release_of('ray')}".strip()
        yield OK, f"{len(config.devices)} workers on {ray}, which chooses the hosts"
        return
    from metanas_server.workers.main import check_device  # imports torch

    for device, count in Counter(config.devices).items():
        check_device(device)
        yield OK, f"{device}: {count} {'workers' if count > 1 else 'worker'}"
    cpus, cores = config.devices.count("cpu"), usable_cores()
    if cpus > cores:
        yield WARNING, f"{cpus} CPU workers share {cores} cores; give fewer --devices"


def checkpoints(config: ServerConfig) -> Iterator[Found]:
    """Load all checkpoints."""
    from metanas.checkpoint import load_checkpoint  # imports torch

    root, digests = config.checkpoints, {}
    for folder in sorted(path.parent for path in root.glob(f"*/{CARD_FILE}")):
        try:
            card = load_checkpoint(folder, device="cpu").card
        except MetanasError as error:
            yield FAILURE, f"{error} ({error.reason})"
            continue
        digests[folder.name] = card.digest
        yield OK, f"{folder.name}: {card.input.size} pixels, digest {card.digest[:12]}"
    if not digests:
        yield FAILURE, f"--checkpoints {root} contains none that can be used; give another folder"
    if (root / UNIVERSAL_FILE).exists():
        read_universal(root / UNIVERSAL_FILE).check_checkpoints(digests)
        yield OK, f"{UNIVERSAL_FILE} fits them"
