"""The worker process: loads the checkpoints and makes models, many at once.

The only module of the server that imports the core's torch side. It runs in a process of its own,
so that the front answers while models are being made, and outlives whatever happens here.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import torch

from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import Scheduler, StackLimits
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import CheckpointError, MetanasError
from metanas.spec.card import CARD_FILE
from metanas.spec.examples import Example
from metanas.spec.report import Progress
from metanas_server.errors import ServiceError, StartError, WorkerFailed
from metanas_server.storage import support_file
from metanas_server.workers.failures import Failed, failed
from metanas_server.workers.protocol import (
    Adopt,
    Beat,
    Ended,
    Made,
    Order,
    Ready,
    Reload,
    Reloaded,
    Setup,
    Share,
    Step,
    Stop,
    changed,
)

LOG = logging.getLogger(__name__)


def main(connection: Connection, setup: Setup) -> None:
    """Load the checkpoints, say so, then work off jobs until the front is gone."""
    # Ctrl-C and a service manager's SIGTERM reach the whole process group; it is the front that
    # decides what happens to a running job, and it ends this process by SIGKILL.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(setup.threads)
    try:
        check_device(setup.device)
        checkpoints = _load(setup)
        worker = Worker(checkpoints, setup, connection)
        worker.warm_up()
    except (MetanasError, ServiceError) as error:
        connection.send(failed(error))
        return
    try:
        connection.send(Ready({name: each.card for name, each in checkpoints.items()}))
        while True:
            worker.turn()
    except (EOFError, ConnectionError):
        return  # the front has gone


class Worker:
    """Makes models from checkpoints that stay in memory, as many at once as it is given."""

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], setup: Setup, connection: Connection
    ) -> None:
        self._checkpoints = checkpoints
        self._loaded: Mapping[str, Checkpoint] | None = None
        self._setup = setup
        self._limits = setup.limits
        self._beat = setup.beat
        self._connection, self._told = connection, 0.0
        stack = StackLimits(images=setup.stack_images, memory=setup.stack_bytes)
        self._scheduler = Scheduler(stack, setup.threads)
        self._numbers = dict[Job, int]()
        self._stopped = set[int]()

    def warm_up(self) -> None:
        """Make a throw-away model, so that the first caller does not wait for what comes but once.

        The first optimizer of a process loads torch's compiler, some 800 modules: a second or more.
        """
        checkpoint = next(iter(self._checkpoints.values()))
        side, channels = checkpoint.card.input.size, checkpoint.card.input.channels
        images = [np.full((side, side, channels), level, np.uint8) for level in (0, 255)]
        examples = [Example(str(index), image) for index, image in enumerate(images)]
        options = checkpoint.card.defaults.replace({"steps": 1, "tuning_steps": 1})
        job = Job(checkpoint, examples, options=options)
        self._scheduler.add(job)
        while self._scheduler:
            self._scheduler.advance()
        job.result()

    def turn(self) -> None:
        """Take in what the front has sent, and bring the jobs one step further.

        The pipe is waited for only while there is nothing to do: whoever comes first begins at
        once, and whoever comes later joins between two steps.
        """
        self._connection.poll(0 if self._scheduler else self._beat)
        while self._connection.poll(0):
            self._take(self._connection.recv())
        if not self._scheduler or time.monotonic() - self._told > self._beat:
            self._tell(Beat())
        for job in self._scheduler.advance():
            number = self._numbers.pop(job)
            self._stopped.discard(number)
            self._tell(Ended(number=number, outcome=_outcome(job, number)))

    def _tell(self, message: Beat | Step | Ended | Reloaded) -> None:
        self._connection.send(message)
        self._told = time.monotonic()

    def _take(self, message: Order | Stop | Share | Reload | Adopt) -> None:
        if isinstance(message, Share):
            torch.set_num_threads(message.threads)
            self._scheduler.threads = message.threads
        elif isinstance(message, Reload):
            self._reload()
        elif isinstance(message, Adopt):
            if message.use and self._loaded is not None:
                self._checkpoints = self._loaded
            self._loaded = None
        elif isinstance(message, Order):
            self._begin(message)
        elif message.number in self._numbers.values():  # else it has ended in the meantime
            self._stopped.add(message.number)

    def _reload(self) -> None:
        """Load the checkpoints beside those in use; jobs go on with those they began with."""
        try:
            with self._beating():
                self._loaded = _load(self._setup)
        except Exception as error:
            self._tell(Reloaded(_failure(error, "loading the checkpoints again")))
        else:
            self._tell(Reloaded({name: each.card for name, each in self._loaded.items()}))

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Send beats from a thread meanwhile; this thread must not use the pipe."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._beat):
                self._tell(Beat())

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
            self._tell(Ended(number=order.number, outcome=outcome))
        else:
            self._numbers[job] = order.number
            self._scheduler.add(job)

    def _job(self, order: Order) -> Job:
        checkpoint = self._checkpoints.get(order.checkpoint)
        if checkpoint is None or checkpoint.card.digest != order.digest:
            raise CheckpointError("CHECKPOINT_CHANGED", changed(order.checkpoint))
        return Job(
            checkpoint,
            support_file.unpack(order.support.read_bytes()),
            classes=order.classes,
            options=checkpoint.card.defaults.replace(order.overrides),
            seed=order.seed,
            limits=self._limits,
            on_progress=lambda progress: self._report(order.number, progress),
            should_stop=lambda: order.number in self._stopped,
        )

    def _report(self, number: int, progress: Progress) -> None:
        self._tell(Step(number=number, progress=progress))


def _outcome(job: Job, number: int) -> Made | Failed:
    model = job.outcome
    if not isinstance(model, AdaptedModel):
        assert model is not None
        return _failure(model, f"job {number}")
    return Made(
        onnx=model.onnx,
        sha256=model.sha256,
        labels=model.labels,
        genotype_json=model.genotype.to_json(),
        report_json=model.report.to_json(),
    )


def _failure(error: Exception, work: str) -> Failed:
    """Describe an error as data; a defect fails its job, and the worker process lives on.

    Raises:
        torch.AcceleratorError: the device is of no use any more to this process. Its end has the
            front start another.
    """
    if isinstance(error, torch.AcceleratorError):
        raise error
    if isinstance(error, MetanasError | ServiceError):
        return failed(error)
    LOG.error("%s failed", work, exc_info=error)
    return failed(WorkerFailed("INTERNAL", f"the worker met a defect: {type(error).__name__}"))


def check_device(name: str) -> None:
    """Make sure that torch can compute there.

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


def _load(setup: Setup) -> dict[str, Checkpoint]:
    root = setup.checkpoints
    folders = sorted(path.parent for path in root.glob(f"*/{CARD_FILE}"))
    if not folders:
        message = (
            f"--checkpoints {root} contains no checkpoint: no folder in it has a {CARD_FILE};"
            " give the folder above the checkpoints"
        )
        raise StartError("CHECKPOINT_MISSING", message)
    load = setup.load or load_checkpoint
    return {folder.name: load(folder, device=setup.device) for folder in folders}
