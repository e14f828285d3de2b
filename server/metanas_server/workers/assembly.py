"""Assemble the pool of workers that a configuration asks for."""

from importlib.util import find_spec

from metanas_server.config import ServerConfig
from metanas_server.cores import usable_cores
from metanas_server.errors import StartError
from metanas_server.workers.cluster.launcher import RayWorkers
from metanas_server.workers.link import Launcher
from metanas_server.workers.pool import OnChange, WorkerPool
from metanas_server.workers.process import Processes
from metanas_server.workers.protocol import Load, Setup

BEATS = 4  # messages of an idle worker within --max-silence


def make_pool(config: ServerConfig, load: Load | None, on_change: OnChange) -> WorkerPool:
    """Return the workers, which are not started yet.

    Raises:
        StartError: RAY_MISSING.
    """
    cores = usable_cores()
    threads = config.threads or (1 if config.on_ray else cores)
    setups = [_setup(config, device, threads, load) for device in config.devices]
    return WorkerPool(
        setups,
        _launcher(config, setups),
        # A cluster may lack a host for a while: one worker is enough to begin.
        quorum=1 if config.on_ray else len(setups),
        cores=None if config.threads or config.on_ray else cores,
        max_silence=config.max_silence,
        on_change=on_change,
    )


def _launcher(config: ServerConfig, setups: list[Setup]) -> Launcher:
    if not config.on_ray:
        return Processes()
    if find_spec("ray") is None:
        message = f'--workers {config.workers} needs Ray; run: pip install "metanas-server[ray]"'
        raise StartError("RAY_MISSING", message)
    return RayWorkers(config.ray_address, cpus=sum(setup.cpus for setup in setups))


def _setup(config: ServerConfig, device: str, threads: int, load: Load | None) -> Setup:
    return Setup(
        checkpoints=config.checkpoints,
        limits=config.limits,
        device=device,
        threads=threads,
        stack_images=config.max_stack_images,
        stack_bytes=config.max_stack_bytes,
        beat=config.max_silence / BEATS,
        start_seconds=config.start_seconds,
        log_level=config.log_level,
        log_format=config.log_format,
        load=load,
    )
