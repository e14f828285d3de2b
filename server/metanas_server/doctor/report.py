"""The command `metanas-server doctor`: check all that a server needs, and say what to do.

It takes the options of the server, prints one line for each finding, and changes nothing.

Exit codes: 0 without a failure, 1 with one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from metanas.errors import MetanasError
from metanas_server.config import ServerConfig, parse
from metanas_server.doctor import installation, machine, storage
from metanas_server.doctor.findings import FAILURE, OK, Found


@dataclass(frozen=True)
class Finding:
    """One line of the report; `text` says what to do unless the level is "ok"."""

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.level:<7}  {self.subject}: {self.text}"


CHECKS: Mapping[str, Callable[[ServerConfig], Iterator[Found]]] = {
    "versions": installation.versions,
    "extras": installation.extras,
    "providers": installation.providers,
    "devices": installation.devices,
    "memory": machine.memory,
    "checkpoints": installation.checkpoints,
    "address": machine.address,
    "security": machine.security,
    "store": storage.store,
    "disk": storage.disk,
}
"""The checks by subject, in the order of the report."""


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
