"""The command `metanas-server doctor`: check all that a server needs, and say what to do.

It takes the options of the server, prints one line for each finding, and changes nothing.

Exit codes: 0 without a failure, 1 with one.
"""

import fcntl
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL

from metanas.errors import MetanasError
from metanas.spec.card import CARD_FILE
from metanas.spec.universal import UNIVERSAL_FILE, read_universal
from metanas_server.app import certificates, check_address
from metanas_server.callers import tokens
from metanas_server.config import ServerConfig, parse
from metanas_server.cores import usable_cores
from metanas_server.errors import StartError, StoreError, StoreUnavailable
from metanas_server.records.address import open_database, read_address
from metanas_server.records.damage import Flaw
from metanas_server.records.migrate import Use
from metanas_server.records.records import Records
from metanas_server.storage.artefacts import QUARANTINE, Store
from metanas_server.storage.folder_store import FolderStore
from metanas_server.storage.place import folder_of, open_store

OK, WARNING, FAILURE = "ok", "warning", "failure"
DISTRIBUTIONS = (
    "metanas",
    "metanas-checkpoints",
    "metanas-data",
    "metanas-protos",
    "metanas-server",
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
GIB = 2**30
WORKER_BYTES = 300 * 2**20
"""Memory of an idle worker that it shares with no other."""
MOST_FLAWS = 20  # damaged records with a line of their own
REPAIR = "stop the server, and run metanas-server repair"
LITTLE_DISK, TOO_LITTLE_DISK = 2 * GIB, GIB // 10


@dataclass(frozen=True)
class Finding:
    """One line of the report; `text` says what to do unless the level is "ok"."""

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.level:<7}  {self.subject}: {self.text}"


Found = tuple[str, str]
"""Level and text of a finding."""


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print all findings for these options of a server; return the exit code."""
    failures = 0
    for finding in examine(arguments, environment):
        print(finding, flush=True)
        failures += finding.level == FAILURE
    return 1 if failures else 0


def examine(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings. Without a valid configuration, there is only one.

    Raises:
        SystemExit: `--help` or `--version`.
    """
    try:
        config = parse(arguments, environment)
    except MetanasError as error:
        yield Finding(FAILURE, "configuration", f"{error} ({error.reason})")
        return
    yield Finding(OK, "configuration", f"listen on {config.listen}, data in {config.data}")
    for subject, check in CHECKS.items():
        try:
            for level, text in check(config):
                yield Finding(level, subject, text)
        except MetanasError as error:
            yield Finding(FAILURE, subject, f"{error} ({error.reason})")
        except ImportError as error:
            yield Finding(FAILURE, subject, f"{error}; install metanas-server again")


def _versions(_: ServerConfig) -> Iterator[Found]:
    releases = {name: version(name) for name in DISTRIBUTIONS}
    others = ", ".join(f"{name} {version(name)}" for name in ("torch", "grpcio", "protobuf"))
    python = f"Python {platform.python_version()}, {others}"
    if len(set(releases.values())) > 1:
        listed = ", ".join(f"{name} {release}" for name, release in releases.items())
        yield FAILURE, f"{listed}: install the same version of all; {python}"
    else:
        yield OK, f"metanas-server {releases['metanas-server']}, {python}"


def _providers(_: ServerConfig) -> Iterator[Found]:
    installed = {name: _version(name) for name in RUNTIMES}
    present = [f"{name} {release}" for name, release in installed.items() if release]
    if len(present) != 1:
        problem = f"{' and '.join(present)} overwrite each other" if present else "no ONNX Runtime"
        repair = f"uninstall {' and '.join(RUNTIMES)}, then install metanas-server"
        yield FAILURE, f"{problem}; {repair}, or metanas-server[gpu] for onnxruntime-gpu"
        return
    import onnxruntime  # imported by the worker processes only: the front starts without it

    yield OK, f"{present[0]} with {', '.join(onnxruntime.get_available_providers())}"


def _devices(config: ServerConfig) -> Iterator[Found]:
    if config.on_ray:
        release = _version("ray")
        if not release:
            yield FAILURE, f'--workers {config.workers} needs Ray: install "metanas-server[ray]"'
        else:
            yield OK, f"{len(config.devices)} workers on Ray {release}, which chooses the hosts"
        return
    from metanas_server.workers.main import check_device  # imports torch

    for device, count in Counter(config.devices).items():
        check_device(device)
        yield OK, f"{device}: {count} {'workers' if count > 1 else 'worker'}"
    cpus, cores = config.devices.count("cpu"), usable_cores()
    if cpus > cores:
        yield WARNING, f"{cpus} CPU workers share {cores} cores; give fewer --devices"


def _memory(config: ServerConfig) -> Iterator[Found]:
    available = _available_memory()
    if available is None or config.ray_address is not None:  # the workers are elsewhere
        return
    workers = config.devices.count("cpu")
    most = len(config.devices) * (WORKER_BYTES + config.max_image_memory)
    most += workers * config.max_stack_bytes  # of a GPU in its own memory
    text = f"{available / GIB:.1f} GiB available; the workers take at most about {most / GIB:.1f}"
    if most > available:
        yield (
            WARNING,
            f"{text} GiB; give fewer --devices, or a smaller --max-stack-bytes or"
            " --max-image-memory",
        )
    else:
        yield OK, f"{text} GiB"


def _checkpoints(config: ServerConfig) -> Iterator[Found]:
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


def _address(config: ServerConfig) -> Iterator[Found]:
    if _in_use(config.data):
        yield OK, "not checked, since a server uses the data folder"
    else:
        check_address("listen", *config.address)
        if config.metrics_address is not None:
            check_address("metrics", *config.metrics_address)
        if config.studio_address is not None:
            check_address("studio", *config.studio_address)
        yield OK, f"{config.listen} is free"


def _security(config: ServerConfig) -> Iterator[Found]:
    with_tls = certificates(config) is not None
    if config.token_file is None:
        number = 0
    else:
        number = len(tokens.read(config.token_file))
        if not number:
            yield FAILURE, f"{config.token_file} has no token; use metanas-server tokens create"
    text = f"{'TLS' if with_tls else 'no TLS'}, {number or 'no'} token{'s' * (number != 1)}"
    if config.insecure_listen and not (with_tls and number):
        yield (
            WARNING,
            f"{text} with --insecure-listen: keep {config.listen} inside a private network",
        )
    else:
        yield OK, text


def _data(config: ServerConfig) -> Iterator[Found]:
    faults = list[str]()
    for folder, option in _places(config).items():
        fault = _fault(folder, option)
        if fault:
            faults.append(fault)
            yield FAILURE, fault
        elif folder.exists():
            yield OK, f"{folder}{' is in use by a server' if _in_use(folder) else ''}"
        else:
            yield OK, f"{folder} will be created"
    if faults:
        return
    address, artefacts = read_address(config.records, config.data), _artefacts(config)
    if artefacts is not None:
        store = FolderStore(artefacts) if artefacts.exists() else None
        yield from _records(address, store, str(artefacts))
        return
    with TemporaryDirectory() as scratch:
        yield from _records(address, open_store(config.artefacts, Path(scratch)), "the bucket")


def _records(address: Path | URL, store: Store | None, place: str) -> Iterator[Found]:
    """Check the records, and that each file that one of them needs is there and undamaged.

    store: at this place; None if its folder does not exist.
    """
    is_file = isinstance(address, Path)
    restore = "metanas-server restore" if is_file else "pg_restore, and the artefacts of its time"
    ways = f"restore a backup ({restore})"
    if isinstance(address, Path) and not address.exists():
        if store is not None and store.digests():
            yield FAILURE, f"{address} is gone, but not its files; check --records, or {ways}"
        return
    try:
        with closing(Records(open_database(address, Use.LOOK))) as records:
            digests = sorted(records.files.needed())
            mark, flaws = records.files.mark(), records.damage.find()
    except StartError as error:
        if error.reason != "DATABASE_EMPTY":
            raise
        yield OK, str(error)
        return
    yield from _flaws(flaws)
    if store is None:
        if digests:
            text = f"{place} does not exist, but the records need {len(digests)} files in it"
            yield FAILURE, f"{text}; check --artefacts, or {ways}"
        else:
            yield OK, "0 of 0 files are whole"
        return
    if store.mark() not in ("", mark):
        text = f"the artefacts in {store.name} belong to another database"
        yield FAILURE, f"{text}; check --artefacts and --records"
    yield from check_files(address, digests, store, ways)


def check_files(place: Path | URL, files: list[str], store: Store, ways: str) -> Iterator[Found]:
    """Check files; a running server may delete those that its records do not need any more."""
    try:
        found = {digest: _state(store, digest) for digest in files}
    except StoreUnavailable as error:
        yield FAILURE, f"{store.name} cannot be read: {error}; check its disk, or AWS_* of a bucket"
        return
    if "lost" in found.values():
        with closing(Records(open_database(place, Use.LOOK))) as records:
            found = {each: found[each] for each in records.files.needed() & found.keys()}
    states = Counter(found.values())
    for state in ("lost", "damaged"):
        if states[state]:
            yield FAILURE, f"{states[state]} of {len(found)} files are {state}; {ways}"
    yield OK, f"{states['whole']} of {len(found)} files are whole"
    if store.isolated():
        where = f"{store.name}/{QUARANTINE}"
        yield WARNING, f"{where} has files without a record; delete them if no model is missing"


def _flaws(flaws: Sequence[Flaw]) -> Iterator[Found]:
    for flaw in flaws[:MOST_FLAWS]:
        yield FAILURE, f"the record of {flaw.name} has changed on the disk; {REPAIR}"
    if more := len(flaws[MOST_FLAWS:]):
        yield FAILURE, f"{more} more records have changed on the disk; {REPAIR}"


def _disk(config: ServerConfig) -> Iterator[Found]:
    artefacts = _artefacts(config)
    with_models = None if artefacts is None else _existing(artefacts).stat().st_dev
    disks = {_existing(folder).stat().st_dev: folder for folder in reversed(list(_places(config)))}
    for disk, folder in reversed(list(disks.items())):
        free = shutil.disk_usage(_existing(folder)).free
        text = f"{free / GIB:.1f} GiB free in {folder}"
        if free < LITTLE_DISK:
            level = FAILURE if free < TOO_LITTLE_DISK else WARNING
            models = "delete models (metanas models delete) or " if disk == with_models else ""
            yield level, f"{text}; {models}enlarge the disk"
        else:
            yield OK, text


def _places(config: ServerConfig) -> Mapping[Path, str]:
    """Return the folders that the server writes to, and the option that names each."""
    places = [(config.data, "data")]
    address, artefacts = read_address(config.records, config.data), _artefacts(config)
    if isinstance(address, Path):
        places.append((address.parent, "records"))
    if config.artefacts is not None and artefacts is not None:
        places.append((artefacts, "artefacts"))
    first = {folder.resolve(): (folder, option) for folder, option in reversed(places)}
    return dict(reversed(list(first.values())))


def _artefacts(config: ServerConfig) -> Path | None:
    return folder_of(config.artefacts, config.data)


def _fault(folder: Path, option: str) -> str:
    """Return why the server cannot write to a folder, and what to do; empty if it can."""
    near = _existing(folder)
    if not near.is_dir():
        return f"{near} is no folder; choose another --{option}"
    if os.access(near, os.W_OK | os.X_OK):
        return ""
    if near != folder.resolve():
        ways = f"make {folder} for this user, or choose another --{option}"
        return f"{near} cannot be written by this user; {ways}"
    ways = f"run the server as its owner (user id {near.stat().st_uid}), or give it to this user"
    return f"{near} cannot be written by this user; {ways}"


CHECKS: Mapping[str, Callable[[ServerConfig], Iterator[Found]]] = {
    "versions": _versions,
    "providers": _providers,
    "devices": _devices,
    "memory": _memory,
    "checkpoints": _checkpoints,
    "address": _address,
    "security": _security,
    "store": _data,
    "disk": _disk,
}
"""The checks by subject, in the order of the report."""


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


def _available_memory() -> int | None:
    """Return the memory that processes can take; None on a system without /proc."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    available = kib["MemAvailable"] * 1024
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    text = limit.read_text(encoding="ascii").strip() if limit.exists() else ""
    return min(available, int(text)) if text.isdecimal() else available


def _existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    path = path.resolve()
    return next(each for each in (path, *path.parents) if each.exists())


def _in_use(folder: Path) -> bool:
    """Return True if a server has locked the folder."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _state(store: Store, digest: str) -> str:
    """Return "whole", "lost" or "damaged"; raises `StoreUnavailable`."""
    try:
        store.check(digest)
    except StoreError as error:
        if isinstance(error, StoreUnavailable):
            raise
        return "lost" if error.reason == "ARTEFACT_LOST" else "damaged"
    return "whole"
