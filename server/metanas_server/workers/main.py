"""The main loop of a worker process: load the checkpoints and run many adaptations at once.

This is the only module of the server that imports torch. It runs in a separate process: the front
answers calls during a step, and survives a crash of the process.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import Scheduler, StackLimits
from metanas.adaptation.universal import Source, UniversalSpace
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import CheckpointError, MetanasError
from metanas.spec.card import CARD_FILE
from metanas.spec.examples import Example
from metanas.spec.progress import Progress
from metanas.spec.universal import UNIVERSAL, UNIVERSAL_FILE, Universal, read_universal
from metanas_server.errors import StartError, StoreError, WorkerFailed
from metanas_server.observation import logs
from metanas_server.storage import support_file
from metanas_server.storage.artefacts import damaged, sha256
from metanas_server.workers.checkpoint_files import folder_with
from metanas_server.workers.failures import Failed, failed
from metanas_server.workers.link import Channel
from metanas_server.workers.protocol import (
    Adopt,
    Beat,
    Cards,
    Ended,
    FromWorker,
    Loaded,
    Made,
    Order,
    Reload,
    Setup,
    Share,
    Started,
    Step,
    ToWorker,
    changed_message,
)

LOG = logging.getLogger(__name__)


def main(channel: Channel, setup: Setup) -> None:
    """Run a worker process until the front ends."""
    # Ctrl-C and a service manager's SIGTERM reach the whole process group. The front decides about
    # running jobs, and ends this process with SIGKILL.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run(channel, setup)


def run(channel: Channel, setup: Setup) -> None:
    """Load the checkpoints, report that, then run jobs until the front ends."""
    logs.configure(setup.log_level, setup.log_format)
    torch.set_num_threads(setup.threads)
    channel.send(Started())
    try:
        check_device(setup.device)
        loaded = _load(setup)
        runner = Runner(loaded, setup, channel)
        runner.warm_up()
    except MetanasError as error:
        channel.send(Loaded(failed(error)))
        return
    try:
        channel.send(Loaded(loaded.cards))
        while True:
            runner.turn()
    except (EOFError, ConnectionError):
        return  # the front has ended


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints that this process holds, by name, and the universal search space."""

    by_name: Mapping[str, Checkpoint]
    universal: Universal | None

    @property
    def cards(self) -> Cards:
        """The cards, and the universal search space."""
        return Cards({name: each.card for name, each in self.by_name.items()}, self.universal)

    @cached_property
    def space(self) -> UniversalSpace | None:
        """The universal search space with its networks.

        Raises:
            CheckpointError: it was fitted for other checkpoints.
        """
        if self.universal is None:
            return None
        return UniversalSpace(self.universal, self.by_name)

    def source(self, name: str, digest: str) -> Source:
        """Return the checkpoint of this name, or the universal search space.

        Raises:
            CheckpointError: CHECKPOINT_CHANGED, it has another digest.
        """
        if self.cards.digests.get(name) != digest:
            raise CheckpointError("CHECKPOINT_CHANGED", changed_message(name))
        if name == UNIVERSAL and self.space is not None:
            return self.space
        return self.by_name[name]


class Runner:
    """Run the jobs that the front sends, all at once, from checkpoints that stay in memory."""

    def __init__(self, checkpoints: Checkpoints, setup: Setup, channel: Channel) -> None:
        self._checkpoints = checkpoints
        self._reloaded: Checkpoints | None = None
        self._setup = setup
        self._limits = setup.limits
        self._beat = setup.beat
        self._channel, self._last_message = channel, 0.0
        stack = StackLimits(images=setup.stack_images, memory=setup.stack_bytes)
        self._scheduler = Scheduler(stack, setup.threads)
        self._orders = dict[Job, Order]()
        self._stopped = set[int]()

    def warm_up(self) -> None:
        """Adapt once to random images, so that the first caller does not wait for imports.

        The first optimizer of a process loads torch's compiler, some 800 modules: a second or more.
        """
        checkpoint = next(iter(self._checkpoints.by_name.values()))
        side, channels = checkpoint.card.input.size, checkpoint.card.input.channels
        images = [np.full((side, side, channels), level, np.uint8) for level in (0, 255)]
        examples = [Example(str(index), image) for index, image in enumerate(images)]
        # In float32: so few images calibrate no file in 8 bits.
        options = checkpoint.card.defaults.replace(
            {"steps": 1, "tuning_steps": 1, "precision": "float32"}
        )
        job = Job(checkpoint, examples, options=options)
        self._scheduler.add(job)
        while self._scheduler:
            self._scheduler.advance()
        job.result()

    def turn(self) -> None:
        """Read the messages of the front and advance the jobs by one step.

        Wait for a message only if there is no job. A new job joins the others between two steps.
        """
        self._channel.poll(0 if self._scheduler else self._beat)
        while self._channel.poll(0):
            self._handle(self._channel.recv())
        if not self._scheduler or time.monotonic() - self._last_message > self._beat:
            self._send(Beat())
        for job in self._scheduler.advance():
            order = self._orders.pop(job)
            self._stopped.discard(order.number)
            self._send(Ended(number=order.number, outcome=_outcome(job, order)))

    def _send(self, message: FromWorker) -> None:
        self._channel.send(message)
        self._last_message = time.monotonic()

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Share):
            torch.set_num_threads(message.threads)
            self._scheduler.threads = message.threads
        elif isinstance(message, Reload):
            self._setup = replace(self._setup, copy=message.copy)
            self._reload()
        elif isinstance(message, Adopt):
            if message.use and self._reloaded is not None:
                self._checkpoints = self._reloaded
            self._reloaded = None
        elif isinstance(message, Order):
            self._begin(message)
        elif message.number in {each.number for each in self._orders.values()}:  # else it has ended
            self._stopped.add(message.number)

    def _reload(self) -> None:
        """Load the checkpoints beside those in use; running jobs keep the old ones."""
        try:
            with self._beating():
                self._reloaded = _load(self._setup)
        except Exception as error:
            self._send(Loaded(_failure(error, "the reload")))
        else:
            self._send(Loaded(self._reloaded.cards))

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Send beats from another thread; until the exit this thread must not use the channel."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._beat):
                self._send(Beat())

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _begin(self, order: Order) -> None:
        try:
            job = self._job(order)
        except Exception as error:
            outcome = _failure(error, f"job {order.number}")
            self._send(Ended(number=order.number, outcome=outcome))
        else:
            self._orders[job] = order
            self._scheduler.add(job)

    def _job(self, order: Order) -> Job:
        return Job(
            self._checkpoints.source(order.checkpoint, order.digest),
            support_file.unpack(_read(order)),
            classes=order.classes,
            options=order.overrides,
            seed=order.seed,
            limits=self._limits,
            on_progress=lambda progress: self._report(order.number, progress),
            should_stop=lambda: order.number in self._stopped,
        )

    def _report(self, number: int, progress: Progress) -> None:
        self._send(Step(number=number, progress=progress))


def _read(order: Order) -> bytes:
    """Return the support set, compared with the digest that names its file.

    Raises:
        StoreError: ARTEFACT_LOST, ARTEFACT_DAMAGED.
    """
    name = order.support.name
    try:
        data = order.support.read_bytes() if order.data is None else order.data
    except FileNotFoundError as error:
        raise StoreError("ARTEFACT_LOST", f"the support set {name} is gone") from error
    if sha256((data,)) != name:
        raise damaged(name)
    return data


def _outcome(job: Job, order: Order) -> Made | Failed:
    model = job.outcome
    if not isinstance(model, AdaptedModel):
        assert model is not None
        return _failure(model, f"job {order.number}")
    return Made(
        checkpoint=order.checkpoint,
        onnx=model.onnx,
        sha256=model.sha256,
        labels=model.labels,
        genotype_json=model.genotype.to_json(),
        report_json=model.report.to_json(),
    )


def _failure(error: Exception, work: str) -> Failed:
    """Describe an error as data; a defect ends its job only.

    Raises:
        torch.AcceleratorError: this process can no longer use its device. It ends, and the front
            starts another one.
    """
    if isinstance(error, torch.AcceleratorError):
        raise error
    if isinstance(error, MetanasError):
        return failed(error)
    LOG.error("%s failed", work, exc_info=error)
    return failed(WorkerFailed("INTERNAL", f"a defect in the worker: {type(error).__name__}"))


def check_device(name: str) -> None:
    """Check that torch can compute on this device.

    Raises:
        StartError: DEVICE_MISSING.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        message = (
            f"--devices {name}: torch {torch.__version__} has {count} CUDA devices here;"
            " use cpu, or check nvidia-smi and the CUDA build of torch"
        )
        raise StartError("DEVICE_MISSING", message)


def _load(setup: Setup) -> Checkpoints:
    with folder_with(setup.checkpoints, setup.copy) as root:
        folders = sorted(path.parent for path in root.glob(f"*/{CARD_FILE}"))
        if not folders:
            message = (
                f"--checkpoints {setup.checkpoints} contains no checkpoint: no folder in it has a"
                f" {CARD_FILE}; give the folder above the checkpoints"
            )
            raise StartError("CHECKPOINT_MISSING", message)
        load = setup.load or load_checkpoint
        by_name = {folder.name: load(folder, device=setup.device) for folder in folders}
        path = root / UNIVERSAL_FILE
        return Checkpoints(by_name, read_universal(path) if path.exists() else None)
