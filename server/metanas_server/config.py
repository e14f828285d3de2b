"""The configuration: one frozen value.

Each field is a flag, an environment variable and a key of the configuration file.
"""

import argparse
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

from metanas.errors import InvalidInput
from metanas.spec.examples import Limits
from metanas.util.fields import Count, Declaration, Natural, OneOf, Range, check, describe, require
from metanas_data.suggest import Parser
from metanas_server.config_file import read_config_file
from metanas_server.cores import default_devices
from metanas_server.errors import StartError
from metanas_server.sockets import address_of, is_loopback, metrics_address_of

PREFIX = "METANAS_"
MIB = 2**20
MAX_SECONDS, MAX_THREADS, MAX_TTL = 1_000_000, 1024, 1_000_000_000
"""Upper bounds of options; larger values overflow in timers and in torch."""
METAVARS = {int: "N", float: "SECONDS", str: "TEXT", tuple[str, ...]: "NAMES"}
PLACE = re.compile(r"s3://[^/\s]+(/.*)?|(?!.*://).+")
COLLECTOR = re.compile(r"https?://[^/\s]+:(\d{1,5})")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
PROCESSES, LOCAL_RAY = "processes", "ray"
WORKERS = re.compile(rf"{PROCESSES}|{LOCAL_RAY}|(ray://)?[^/\s]+:\d{{1,5}}")
Seconds = Annotated[float, Range(above=0, most=MAX_SECONDS)]


def shipped_checkpoints() -> Path:
    """Return the folder of the checkpoints that the package `metanas-checkpoints` has installed."""
    return Path(str(files("metanas_checkpoints")))


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The options of a server.

    Raises:
        InvalidInput: values out of bounds.
        StartError: ADDRESS_INVALID, LISTEN_INSECURE.
    """

    config: Path | None = None
    """TOML file with options, such as max_ways = 20; flags and variables win over it."""
    checkpoints: Path = field(default_factory=shipped_checkpoints)
    """Folder with one folder for each checkpoint. The default is the shipped ones."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT to listen on; port 0 takes a free one. Hosts other than loopback need TLS or
    --insecure-listen."""
    metrics: str | None = None
    """HOST:PORT, or PORT for this machine only, of Prometheus metrics over HTTP; none turns them
    off. Everybody who reaches the address can read them."""
    traces: str | None = None
    """http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector that takes OTLP over gRPC
    (extra "otel"); none sends no traces."""
    studio: str | None = None
    """HOST:PORT of the page in the browser (extra "studio"); none turns it off. Hosts other than
    loopback need TLS or --insecure-listen."""
    log_level: Annotated[str, OneOf(("debug", "info", "warning", "error"))] = "info"
    """Least severe level of the log, which goes to standard error."""
    log_format: Annotated[str, OneOf(("text", "json"))] = "text"
    """Format of the lines of the log."""
    access_log: bool = False
    """Log each call, except health checks, with its status code and its seconds."""
    data: Path = Path("metanas-data")
    """Folder for models and records; created if missing."""
    artefacts: str | None = None
    """Folder, or s3://BUCKET/PREFIX (extra "s3"), of models and support sets. The default is the
    folder artefacts in --data; access to a bucket comes from the AWS_* variables."""
    records: str | None = None
    """Database of the records: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST:PORT/NAME (extra
    "postgres"). None is a file of SQLite in --data."""
    devices: tuple[str, ...] = field(default_factory=default_devices)
    """Comma-separated devices, one worker process for each: cpu, cuda, cuda:0, cuda:1 ... The
    default is cpu for each core, at most four times."""
    workers: str = PROCESSES
    """Place of the workers: processes of this server; ray, a Ray cluster that the server starts on
    this host; or HOST:PORT or ray://HOST:PORT of a Ray cluster (extra "ray")."""
    threads: Annotated[int, Range(0, MAX_THREADS)] = 0
    """Threads of each worker; 0 divides the cores among the busy CPU workers, and is 1 on Ray."""
    tls_cert: Path | None = None
    """PEM file with the server's certificate chain."""
    tls_key: Path | None = None
    """PEM file with the key of that certificate."""
    tls_client_ca: Path | None = None
    """PEM file with the authorities whose client certificates are required (mutual TLS)."""
    token_file: Path | None = None
    """File with tokens, made by metanas-server tokens; callers must send one as 'authorization:
    Bearer TOKEN'."""
    audit_log: Path | None = None
    """File for one JSON line for each change, download and refusal."""
    insecure_listen: bool = False
    """Allow addresses other than loopback without TLS: images and tokens are unencrypted."""
    reflection: bool = True
    """Answer gRPC server reflection."""
    limits: Limits = field(default_factory=Limits)
    max_connections: Count = 8192
    """Most open connections; more are closed at once."""
    max_calls: Count = 8192
    """Most calls in progress, streams included; health checks do not count."""
    max_calls_per_caller: Count = 1024
    """Most calls in progress of one caller, and health checks of one address."""
    max_request_bytes: Count = MIB
    """Most bytes of a request without its images: the spec of an upload, or another call."""
    max_upload_bytes: Count = 1024 * MIB
    """Most bytes of all uploads in progress."""
    max_upload_bytes_per_caller: Count = 512 * MIB
    """Most bytes of the uploads in progress of one caller. Each name of a token is a caller;
    without tokens, each address."""
    max_uploads_per_caller: Count = 64
    """Most uploads in progress of one caller."""
    upload_idle_seconds: Seconds = 30.0
    """Longest wait for the next message of an upload, in seconds."""
    upload_seconds: Seconds = 600.0
    """Longest duration of an upload, in seconds."""
    max_query_bytes: Annotated[int, Range(1, 2**30)] = 16 * MIB
    """Most bytes of a query to a model; more overflow in gRPC."""
    max_query_images: Count = 1024
    """Most images of a query."""
    max_queries_per_caller: Count = 256
    """Most queries in progress of one caller. Their bytes have the limits of uploads."""
    query_seconds: Seconds = 30.0
    """Longest duration of a query, in seconds."""
    query_threads: Annotated[int, Range(0, MAX_THREADS)] = 0
    """Queries that run at the same time; 0 is the number of cores, at most four."""
    max_open_bytes: Count = 512 * MIB
    """Most bytes of models that stay open for queries."""
    max_stack: Count = 16
    """Most adaptations at once on a worker; 1 runs them one after the other."""
    max_stack_images: Count = 512
    """Most support images of a common step of several adaptations."""
    max_stack_bytes: Count = 1536 * MIB
    """Most bytes of activations of a common step. An adaptation that needs more alone computes
    parts twice instead of storing them."""
    max_image_memory: Count = 2048 * MIB
    """Most bytes of the images of all adaptations on a worker, encoded and decoded, estimated from
    their headers. Others wait; an adaptation that needs more alone is refused."""
    max_queue: Count = 256
    """Most adaptations that wait for a worker, uploads included."""
    max_jobs_per_caller: Count = 64
    """Most unfinished adaptations of one caller, uploads included."""
    max_adaptations_per_minute: Natural = 0
    """Most adaptations that a caller starts in a minute, deleted ones and those of other servers on
    the same PostgreSQL included; 0 sets no limit."""
    max_seconds: Seconds = 600.0
    """Longest duration of an adaptation, in seconds."""
    max_attempts: Count = 3
    """Most attempts of an adaptation whose worker process or server dies. One that ran beside
    others is tried until it has run alone."""
    stop_seconds: Seconds = 20.0
    """Most seconds that a worker may take to stop a job before it is killed and replaced."""
    start_seconds: Seconds = 300.0
    """Most seconds that a worker may take to load the checkpoints before it is killed."""
    max_silence: Seconds = 120.0
    """Most seconds without a message of a worker before it is killed and replaced."""
    ttl: Annotated[float, Range(0, MAX_TTL)] = 0.0
    """Seconds without a download or query after which a model is deleted, and seconds after its end
    after which an adaptation is; 0 keeps them. Pinned models stay."""
    max_store_bytes: Natural = 0
    """Most bytes of models; those whose last use is the oldest are deleted, except for pinned ones.
    0 sets no limit."""
    max_pinned_per_caller: Natural = 16
    """Most pinned models of one caller."""
    max_shares_per_model: Count = 100
    """Most names of callers that a model is shared with."""
    lease_seconds: Seconds = 10.0
    """Seconds without a sign of life after which other servers on the same PostgreSQL take over the
    adaptations of a server."""
    grace: Annotated[float, Range(0, MAX_SECONDS)] = 10.0
    """Seconds that running adaptations get to end during a graceful shutdown."""

    def __post_init__(self) -> None:
        check(self)
        known = bool(self.devices) and all(map(DEVICE.fullmatch, self.devices))
        place = WORKERS.fullmatch(self.workers) is not None
        chosen = self.on_ray and any(":" in device for device in self.devices)
        both = (self.tls_cert is None) == (self.tls_key is None)
        needs_tls = self.tls_client_ca is None or self.tls_cert is not None
        collector = COLLECTOR.fullmatch(self.traces or "http://none:1")
        takes_traces = collector is not None and int(collector[1]) < 2**16
        placed = PLACE.fullmatch(self.artefacts or ".") is not None
        require(
            ("devices", known, "must name devices out of: cpu, cuda, cuda:0, cuda:1 ..."),
            ("workers", place, "must be processes, ray, HOST:PORT or ray://HOST:PORT"),
            ("devices", not chosen, "must be cpu or cuda with --workers: Ray chooses the GPU"),
            ("tls_cert", both, "and --tls-key are given together or not at all"),
            ("tls_client_ca", needs_tls, "needs --tls-cert and --tls-key"),
            ("traces", takes_traces, "must be http://HOST:PORT or https://HOST:PORT"),
            ("artefacts", placed, "must be a folder or s3://BUCKET/PREFIX"),
        )
        self._check_addresses()

    @property
    def address(self) -> tuple[str, int]:
        """Host, without the brackets of an IPv6 address, and port to listen on."""
        return address_of("listen", self.listen)

    @property
    def on_ray(self) -> bool:
        """True if the workers run in a Ray cluster."""
        return self.workers != PROCESSES

    @property
    def ray_address(self) -> str | None:
        """The address of a Ray cluster of others; None without one."""
        return None if self.workers in (PROCESSES, LOCAL_RAY) else self.workers

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of the metrics; None without metrics."""
        return None if self.metrics is None else metrics_address_of(self.metrics)

    @property
    def studio_address(self) -> tuple[str, int] | None:
        """Host and port of the page in the browser; None without one."""
        return None if self.studio is None else address_of("studio", self.studio)

    def _check_addresses(self) -> None:
        if self.metrics is not None:
            metrics_address_of(self.metrics)
        for option, address in (("listen", self.listen), ("studio", self.studio)):
            if address is not None:
                self._check_reach(option, address)

    def _check_reach(self, option: str, address: str) -> None:
        """Refuse an address beyond this machine without TLS."""
        host, _ = address_of(option, address)
        if self.tls_cert is None and not self.insecure_listen and not is_loopback(host):
            raise StartError(
                "LISTEN_INSECURE",
                f"--{option} {address} can be reached from other machines: give --tls-cert and"
                " --tls-key, or --insecure-listen to send everything in the clear",
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """Read the configuration from flags, METANAS_* variables, the file and defaults.

    An option has the value of the first of them that sets it.

    Raises:
        SystemExit: `--help` or `--version`.
        StartError: CONFIG_INVALID, ADDRESS_INVALID, LISTEN_INSECURE.
    """
    return settle(vars(_parser().parse_args(arguments)), environment, tuple(_kinds()))


def settle(
    flags: Mapping[str, Any], environment: Mapping[str, str], names: Collection[str]
) -> ServerConfig:
    """Return the configuration in which only these options can differ from their defaults.

    flags: the options that the command line sets, by name.

    Raises:
        StartError: see `parse`.
    """
    kinds = _kinds()
    known = {name: kind for name, kind in kinds.items() if name in names or name == "config"}
    values = _read_variables(environment, known) | {
        name: value for name, value in flags.items() if name in known
    }
    if "config" in values:
        in_file = {name: kind for name, kind in kinds.items() if name != "config"}
        read = read_config_file(values["config"], in_file)
        values = {name: value for name, value in read.items() if name in known} | values
    limits = {each.name: values.pop(each.name) for each in fields(Limits) if each.name in values}
    try:
        return ServerConfig(**values, limits=Limits(**limits))
    except InvalidInput as error:
        wrong = (f"{_as_flag(each.field)} {each.message}" for each in error.violations)
        raise StartError("CONFIG_INVALID", "; ".join(wrong)) from error


def _read_variables(environment: Mapping[str, str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that environment variables set, by name."""
    values = {}
    for name, kind in kinds.items():
        variable = PREFIX + name.upper()
        if variable in environment:
            try:
                values[name] = _reader(kind)(environment[variable])
            except ValueError as error:
                message = f"{variable}={environment[variable]!r} cannot be read: {error}"
                raise StartError("CONFIG_INVALID", message) from error
    return values


def options() -> list[Declaration]:
    """Return the declarations of all options, those of the limits included."""
    return [*describe(ServerConfig), *describe(Limits)]


class CommandLine(Parser):
    """Report a wrong command line as one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        sentence = message if message.endswith((".", "?")) else f"{message}."
        raise StartError("CONFIG_INVALID", f"{sentence} See {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="metanas-server",
        description="Adapts meta-trained networks to a few labelled images, over gRPC.",
        epilog="Commands for the data folder: metanas-server backup, restore or repair --help."
        " Every flag can be given as an environment variable instead, --max-ways as"
        f" {PREFIX}MAX_WAYS, or in the file of --config. Flags win over variables, and variables"
        " over the file. Exit codes: 0 after SIGTERM or SIGINT, 2 if the server"
        " cannot start. metanas-server tokens --help explains the command for tokens.",
        allow_abbrev=False,
    )
    release = f"%(prog)s {version('metanas-server')}"
    parser.add_argument("--version", action="version", version=release)
    add_flags(parser, tuple(_kinds()))
    return parser


def add_flags(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Declare the flags of these options; those that are not given are not in the result."""
    kinds = _kinds()
    for each in options():
        if each.name not in names:
            continue
        kind = kinds[each.name]
        text = f"{each.help.rstrip('.')} ({each.kind}; default: {_show(each.default)})"
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(
                _as_flag(each.name), action=action, help=text, default=argparse.SUPPRESS
            )
        else:
            metavar = METAVARS.get(kind, "PATH")
            parser.add_argument(
                _as_flag(each.name),
                type=_reader(kind),
                metavar=metavar,
                help=text,
                default=argparse.SUPPRESS,
            )


def _kinds() -> dict[str, Any]:
    """Return the types of all options by name, without bounds and without None."""
    hints = get_type_hints(ServerConfig) | get_type_hints(Limits)
    kinds = {each.name: hints[each.name] for each in options()}
    return {
        name: get_args(kind)[0] if isinstance(kind, UnionType) else kind
        for name, kind in kinds.items()
    }


def _reader(kind: Any) -> Callable[[str], object]:
    if kind in (int, float, str):
        return kind  # type: ignore[no-any-return]
    return {bool: _read_bool, tuple[str, ...]: _read_names}.get(kind, Path)


def _read_bool(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError("use 1 or 0")
    return words[text.lower()]


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _show(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return "none" if default is None else str(default)
