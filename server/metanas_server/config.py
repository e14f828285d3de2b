"""The configuration: one frozen value, each field a flag and an environment variable."""

import argparse
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from metanas.errors import InvalidInput
from metanas.spec.examples import Limits
from metanas_server.cores import MOST_WORKERS, default_devices
from metanas_server.errors import StartError

PREFIX = "METANAS_"
MIB = 2**20
MAX_IMAGE_BYTES, MAX_SECONDS, MAX_THREADS = 2**30, 1_000_000, 1024
"""Upper bounds of options; larger values overflow in gRPC, in timers and in torch."""
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
COUNTS = (
    "max_request_bytes",
    "max_upload_bytes",
    "max_upload_bytes_per_caller",
    "max_stack",
    "max_stack_images",
    "max_stack_bytes",
    "max_queue",
    "max_jobs_per_caller",
    "max_attempts",
)
SPANS = (
    "max_seconds",
    "stop_seconds",
    "start_seconds",
    "max_silence",
    "upload_idle_seconds",
    "upload_seconds",
)


def _flag(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The options of a server.

    Raises:
        StartError: a value is invalid; the message names the flag.
    """

    checkpoints: Path = _flag(
        Path("meta_checkpoints"), "folder with one folder for each checkpoint"
    )
    listen: str = _flag(
        "127.0.0.1:50051",
        "HOST:PORT to listen on; port 0 takes a free one. Hosts other than loopback need TLS or"
        " --insecure-listen",
    )
    data: Path = _flag(Path("metanas-data"), "folder for models and records; made if missing")
    devices: tuple[str, ...] = field(
        default_factory=default_devices,
        metadata={
            "help": "comma-separated devices, one worker process for each: cpu, cuda, cuda:0,"
            f" cuda:1 ...; if not given, cpu for each core, {MOST_WORKERS} times at most"
        },
    )
    threads: int = _flag(
        0, "threads of each worker; 0 shares the cores out among those of the CPU that are busy"
    )
    tls_cert: Path | None = _flag(None, "PEM file with the server's certificate chain")
    tls_key: Path | None = _flag(None, "PEM file with the key of that certificate")
    tls_client_ca: Path | None = _flag(
        None, "PEM file with the authorities whose client certificates are required (mutual TLS)"
    )
    token_file: Path | None = _flag(
        None, "file with a token that callers must send as 'authorization: Bearer TOKEN'"
    )
    insecure_listen: bool = _flag(
        False, "allow listening beyond loopback without TLS: images and tokens travel in the clear"
    )
    reflection: bool = _flag(True, "answer gRPC server reflection")
    max_ways: int = _flag(100, "most classes of a support set")
    max_shots: int = _flag(50, "most examples of one class")
    max_examples: int = _flag(5000, "most examples of a support set")
    max_image_bytes: int = _flag(16 * MIB, "most bytes of one image, encoded or raw")
    max_total_bytes: int = _flag(256 * MIB, "most bytes of a support set")
    max_pixels: int = _flag(50_000_000, "most pixels of one image, looked at before it is decoded")
    max_total_pixels: int = _flag(
        400_000_000, "most pixels of a support set, which stays decoded while it is adapted to"
    )
    min_side: int = _flag(2, "smallest height and width of an image in pixels")
    max_label_bytes: int = _flag(256, "most bytes of a label")
    max_request_bytes: int = _flag(
        MIB, "most bytes of a request apart from its images: the spec of an upload, or another call"
    )
    max_upload_bytes: int = _flag(1024 * MIB, "most bytes of all uploads that are under way")
    max_upload_bytes_per_caller: int = _flag(
        512 * MIB, "most bytes of the uploads that one caller has under way; an address is a caller"
    )
    upload_idle_seconds: float = _flag(
        30.0, "longest wait for the next message of an upload, in seconds"
    )
    upload_seconds: float = _flag(600.0, "longest that an upload may take, in seconds")
    max_stack: int = _flag(
        16, "most adaptations at once on a worker; 1 makes them one after the other"
    )
    max_stack_images: int = _flag(
        512, "most support images of a step that adaptations take together"
    )
    max_stack_bytes: int = _flag(
        1536 * MIB,
        "most bytes of activations of a step that adaptations take together; one that needs more on"
        " its own computes parts twice instead of keeping them",
    )
    max_queue: int = _flag(64, "most adaptations that wait for a worker")
    max_jobs_per_caller: int = _flag(
        64, "most unfinished adaptations of one caller, who is told by the address"
    )
    max_seconds: float = _flag(600.0, "longest that an adaptation may run, in seconds")
    max_attempts: int = _flag(
        3, "how often an adaptation is begun in all when worker processes die"
    )
    stop_seconds: float = _flag(
        20.0, "a worker that has not stopped a job after so many seconds is killed and replaced"
    )
    start_seconds: float = _flag(
        300.0,
        "longest that a worker may take to load the checkpoints, in seconds; then it is killed",
    )
    max_silence: float = _flag(
        120.0, "a worker that has given no sign of life for so many seconds is killed and replaced"
    )
    grace: float = _flag(
        10.0, "seconds that running adaptations get to finish when the server is told to stop"
    )

    def __post_init__(self) -> None:
        for name in COUNTS:
            self._check(name, getattr(self, name) >= 1, "must be at least 1")
        for name in SPANS:
            text = f"must be above 0 and at most {MAX_SECONDS}"
            self._check(name, 0 < getattr(self, name) <= MAX_SECONDS, text)
        for name, most in (
            ("max_image_bytes", MAX_IMAGE_BYTES),
            ("threads", MAX_THREADS),
            ("grace", MAX_SECONDS),
        ):
            self._check(name, 0 <= getattr(self, name) <= most, f"must be 0 to {most}")
        known = bool(self.devices) and all(map(DEVICE.fullmatch, self.devices))
        self._check("devices", known, "must name devices out of: cpu, cuda, cuda:0, cuda:1 ...")
        both = (self.tls_cert is None) == (self.tls_key is None)
        self._check("tls_cert", both, "and --tls-key are given together or not at all")
        needs_tls = self.tls_client_ca is None or self.tls_cert is not None
        self._check("tls_client_ca", needs_tls, "needs --tls-cert and --tls-key")
        self._check_limits()
        self._check_address()

    @property
    def limits(self) -> Limits:
        """The limits of a support set, for the core."""
        return Limits(**{each.name: getattr(self, each.name) for each in fields(Limits)})

    @property
    def host(self) -> str:
        """The host to listen on, without the brackets of an IPv6 address."""
        return self.listen.rpartition(":")[0].strip("[]")

    def _check(self, name: str, fine: bool, message: str) -> None:
        if not fine:
            raise StartError("CONFIG_INVALID", f"{_as_flag(name)} {message}")

    def _check_limits(self) -> None:
        try:
            _ = self.limits
        except InvalidInput as error:
            name = error.violations[0].field.rpartition(".")[2]
            raise StartError("CONFIG_INVALID", f"{_as_flag(name)}: {error}") from error

    def _check_address(self) -> None:
        host, colon, port = self.listen.rpartition(":")
        if not (host and colon and port.isdecimal() and int(port) < 2**16):
            message = f"--listen {self.listen!r} is not HOST:PORT"
            raise StartError("ADDRESS_INVALID", message)
        if self.tls_cert is None and not self.insecure_listen and not _loopback(self.host):
            raise StartError(
                "LISTEN_INSECURE",
                f"--listen {self.listen} can be reached from other machines: give --tls-cert and"
                " --tls-key, or --insecure-listen to send everything in the clear",
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """Read the configuration from flags, METANAS_* variables and defaults, in this order.

    Raises:
        SystemExit: `--help` or `--version`.
        StartError: CONFIG_INVALID, ADDRESS_INVALID, LISTEN_INSECURE.
    """
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {}
    for each in fields(ServerConfig):
        if each.name in given:
            values[each.name] = given[each.name]
        elif (text := environment.get(PREFIX + each.name.upper())) is not None:
            try:
                values[each.name] = _reader(each)(text)
            except ValueError as error:
                message = f"{PREFIX}{each.name.upper()}={text!r} cannot be read: {error}"
                raise StartError("CONFIG_INVALID", message) from error
    return ServerConfig(**values)


class _Parser(argparse.ArgumentParser):
    """Report a wrong command line as one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise StartError("CONFIG_INVALID", f"{message}; see metanas-server --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="metanas-server",
        description="Adapts meta-trained networks to a few labelled images, over gRPC.",
        epilog="Every flag can be given as an environment variable instead: --max-ways as"
        f" {PREFIX}MAX_WAYS. Flags win. Exit codes: 0 after SIGTERM or SIGINT, 2 if the server"
        " cannot start.",
        argument_default=argparse.SUPPRESS,
    )
    release = f"%(prog)s {version('metanas-server')}"
    parser.add_argument("--version", action="version", version=release)
    for each in fields(ServerConfig):
        help_ = f"{each.metadata['help']} ({_show(each)})".replace("%", "%%")
        if each.type is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(_as_flag(each.name), action=action, help=help_)
        else:
            metavar, reader = _metavar(each), _reader(each)
            parser.add_argument(_as_flag(each.name), type=reader, metavar=metavar, help=help_)
    return parser


def _metavar(each: Field[Any]) -> str:
    if each.name == "devices":
        return "NAMES"
    words: dict[Any, str] = {int: "N", float: "SECONDS", str: "HOST:PORT"}
    return words.get(each.type, "PATH")


def _reader(each: Field[Any]) -> Any:
    if each.type in (int, float, str):
        return each.type
    if each.type is bool:
        return _read_bool
    return _read_names if each.name == "devices" else Path


def _read_bool(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError("use 1 or 0")
    return words[text.lower()]


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _show(each: Field[Any]) -> str:
    default = each.default if each.default_factory is MISSING else each.default_factory()
    if default is None or default is MISSING:
        return "default: none"
    if isinstance(default, tuple):
        return f"default: {','.join(default)}"
    return f"default: {default}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
