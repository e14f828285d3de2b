"""Checks of the machine: its memory, the addresses of the server and who can reach them."""

from collections.abc import Iterator
from pathlib import Path

from metanas_server.app import certificates, check_address
from metanas_server.callers import tokens
from metanas_server.config import ServerConfig
from metanas_server.doctor.findings import FAILURE, GIB, OK, WARNING, Found
from metanas_server.doctor.storage import in_use

WORKER_BYTES = 300 * 2**20
"""Memory of an idle worker that it shares with no other."""


def memory(config: ServerConfig) -> Iterator[Found]:
    """Compare the memory with the most that the workers take."""
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


def address(config: ServerConfig) -> Iterator[Found]:
    """Check that the addresses of the server are free."""
    if in_use(config.data):
        yield OK, "not checked, since a server uses the data folder"
    else:
        check_address("listen", *config.address)
        if config.metrics_address is not None:
            check_address("metrics", *config.metrics_address)
        if config.studio_address is not None:
            check_address("studio", *config.studio_address)
        yield OK, f"{config.listen} is free"


def security(config: ServerConfig) -> Iterator[Found]:
    """Check certificates and tokens, and warn of an open server."""
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
