"""The worker process: loads the checkpoints and makes models, one after the other.

The only module of the server that imports the core's torch side. It runs in a process of its own,
so that the front answers while a model is being made, and outlives whatever happens here.
"""

import logging
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import torch

from metanas.card import CARD_FILE
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import MetanasError
from metanas.pipeline import Progress, make_model
from metanas.task import Example
from metanas_server import support
from metanas_server.errors import ServiceError, StartError, WorkerFailed
from metanas_server.pipe import Job, Made, Ready, Setup, Step


class StopFlag(Protocol):
    """Memory shared with the front, which writes the number of the job that is to stop."""

    value: int


def main(connection: Connection, stop: StopFlag, setup: Setup) -> None:
    """Load the checkpoints, say so, then work off jobs until the front is gone."""
    # Ctrl-C and a service manager's SIGTERM reach the whole process group; it is the front that
    # decides what happens to a running job, and it ends this process by SIGKILL.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if setup.threads:
        torch.set_num_threads(setup.threads)
    try:
        checkpoints = _load(setup)
        _warm_up(next(iter(checkpoints.values())))
    except (MetanasError, ServiceError) as error:
        connection.send(error)
        return
    worker = Worker(checkpoints, setup, connection, stop)
    connection.send(Ready({name: each.card for name, each in checkpoints.items()}))
    try:
        while True:
            connection.send(worker.attempt(connection.recv()))
    except (EOFError, ConnectionError):
        return  # the front has gone


class Worker:
    """Makes models from checkpoints that stay in memory."""

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        setup: Setup,
        connection: Connection,
        stop: StopFlag,
    ) -> None:
        self._checkpoints = checkpoints
        self._limits = setup.limits
        self._connection = connection
        self._stop = stop

    def attempt(self, job: Job) -> Made | MetanasError | ServiceError:
        """The model, or the error in its place."""
        try:
            return self._make(job)
        except (MetanasError, ServiceError) as error:
            return error
        except ConnectionError:
            raise  # nobody is left to tell
        except Exception as error:  # a defect: the job fails, the worker lives on
            logging.getLogger(__name__).exception("job %s failed", job.number)
            return WorkerFailed("INTERNAL", f"the worker met a defect: {type(error).__name__}")

    def _make(self, job: Job) -> Made:
        checkpoint = self._checkpoints[job.checkpoint]
        model = make_model(
            checkpoint,
            support.unpack(job.support.read_bytes()),
            classes=job.classes,
            options=checkpoint.card.defaults.replace(job.overrides),
            seed=job.seed,
            limits=self._limits,
            on_progress=self._report,
            should_stop=lambda: self._stop.value == job.number,
        )
        return Made(
            onnx=model.onnx,
            sha256=model.sha256,
            labels=model.labels,
            genotype_json=model.genotype.to_json(),
            report_json=model.report.to_json(),
        )

    def _report(self, progress: Progress) -> None:
        self._connection.send(
            Step(
                stage=progress.stage,
                step=progress.step,
                steps=progress.steps,
                loss=progress.loss,
                accuracy=progress.accuracy,
                temperature=progress.temperature,
                entropy=progress.entropy,
            )
        )


def _warm_up(checkpoint: Checkpoint) -> None:
    """Make a throw-away model, so that the first caller does not wait for torch's lazy imports.

    The first optimizer of a process loads torch's compiler, some 800 modules: a second or more.
    """
    side = checkpoint.card.input.size
    shape = (side, side, checkpoint.card.input.channels)
    examples = [Example(str(level), np.full(shape, level, np.uint8)) for level in (0, 255)]
    options = checkpoint.card.defaults.replace({"steps": 1, "tuning_steps": 1})
    make_model(checkpoint, examples, options=options)


def _load(setup: Setup) -> dict[str, Checkpoint]:
    root = setup.checkpoints
    folders = sorted(path.parent for path in root.glob(f"*/{CARD_FILE}"))
    if not folders:
        message = f"there is no checkpoint in {root}: no folder in it has a {CARD_FILE}"
        raise StartError("CHECKPOINT_MISSING", message)
    load = setup.load or load_checkpoint
    return {folder.name: load(folder) for folder in folders}
