"""A meta-training run on disk: its log, its snapshots, its best checkpoint.

Notes:
- With the same number of threads, a run that was killed and resumed ends with the same bits as an
  uninterrupted run.
- The log has no gaps and no repeated lines: a resumed run drops the lines after its snapshot.
- A network that was better than guessing before, but no longer is, may have collapsed. The run then
  takes no snapshots, so that the last good one stays.
"""

import errno
import fcntl
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import torch

from metanas import __version__
from metanas.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metanas.errors import CheckpointError, ClusterError, Diverged, InvalidInput
from metanas.nn.pretrained import pretrained_trunk
from metanas.nn.trunk import Trunk
from metanas.runs.log import (
    CHECKPOINT,
    CONFIG_FILE,
    LOG_FILE,
    SNAPSHOT_FILE,
    append_log,
    read_log,
    rewind_log,
    snapshot_header,
    training_seconds,
)
from metanas.runs.signals import Requests
from metanas.runs.snapshots import Best, check_snapshot, load_snapshot, save_snapshot, way_out
from metanas.spec.card import PAGE_FILE, CheckpointCard, card_markdown
from metanas.training.checks import check_start
from metanas.training.config import RunConfig
from metanas.training.dataset import OnImages, classes_of
from metanas.training.extensions import Extensions, Learner
from metanas.training.trainer import MetaTrainer, Progress
from metanas.util import dataclass_json
from metanas.util.formatting import duration
from metanas.util.provenance import machine, revision
from metanas_data.files import TEMPORARY, write_atomic

LOCK_FILE = "lock"
log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool,
    on_progress: Callable[[Progress], None],
    requests: Requests | None = None,
    extensions: Extensions | None = None,
    learner: Learner | None = None,
    on_images: OnImages = lambda done, images: None,
) -> Best:
    """Train to the last iteration, or continue from the last snapshot; return the best validation.

    The run locks its folder against other processes.

    Args:
        config: the configuration of the run.
        folder: the folder of the run.
        resume: continue from the snapshot in the folder.
        on_progress: called after each meta-iteration.
        requests: started when the data are read, and then checked after every iteration; `stop`
            ends the run with a snapshot.
        extensions: the values behind the names in the configuration, and the data if they are
            not read from files.
        learner: makes the function that runs the inner loops; by default in this process.
        on_images: called while images run through the trunk, before the first iteration.

    Raises:
        DatasetError: the data cannot be used.
        CheckpointError: the checkpoint or the snapshot to start from is missing or damaged; the
            folder holds another run, or another process trains in it; or a file cannot be written
            (WRITE_FAILED), and the older files are unharmed.
        InvalidInput: the run to resume is beyond `train.iterations`.
        Diverged: the loss became NaN or infinite, or stays that of guessing; the last snapshot is
            an earlier one.
        ClusterError: workers are lost for good; there is a snapshot of the iteration before.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    revision()  # remember the revision now: the checkout may change during the run
    # the checks that need no data come first, because reading the data takes longer
    extensions = extensions or Extensions()
    extensions.check(config)
    if resume:
        check_snapshot(folder, config)
        _check_left(folder, config.train.iterations)
        with _locked(folder):  # report another process now, before the data are read
            pass
    with _writing(folder):
        if not resume:
            _refuse_another(folder)
        _try_to_write(folder)
    start = _start(config, extensions) if not resume else None
    trunk = pretrained_trunk(config.space) if config.space.trunk else None
    train, val = classes_of(config, trunk, on_images, extensions.splits)
    learn = learner(config, train) if learner else None
    trainer = MetaTrainer(config, train, val, extensions=extensions, learn=learn)
    if start:
        trainer.start_from(start)
    requests = requests or Requests()
    requests.started = True
    with _locked(folder):
        if not resume:  # another process may have made a run while this one read the data
            _refuse_another(folder)
        best = load_snapshot(folder, trainer) if resume else Best()
        with _writing(folder):
            rewind_log(folder, trainer.iteration)
            if not resume:  # find a disk that cannot be written to now, not after an hour
                save_snapshot(folder, trainer, best)
        return _train(trainer, folder, best, trunk, on_progress, requests)


def _check_left(folder: Path, iterations: int) -> None:
    """Refuse to resume a run that is beyond its last iteration; warn if it is at its end."""
    done = snapshot_header(folder).get("iteration", 0)
    message = f"the run is at iteration {done}, train.iterations is {iterations}: nothing to do"
    if done > iterations:
        message += "; continue with the same --set as before, or ask for more iterations"
        raise InvalidInput.single("train.iterations", "OPTION_OUT_OF_RANGE", message)
    if done == iterations:
        log.warning("%s", message)


def _refuse_another(folder: Path) -> None:
    """Refuse to write a new run over another."""
    if (folder / SNAPSHOT_FILE).exists():
        message = f"{folder} holds a run already; continue with --resume, or choose another --out"
        raise CheckpointError("RUN_EXISTS", message)
    if any((folder / name).exists() for name in (LOG_FILE, CHECKPOINT)):
        message = f"{folder} holds parts of a run, without a {SNAPSHOT_FILE} to resume from"
        raise CheckpointError("RUN_EXISTS", f"{message}; {way_out(folder)}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other processes, and remove unfinished files of a killed one."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    with lock:
        with _writing(folder):  # some file systems have no locks
            _lock(lock, folder)
        for part in (folder, folder / CHECKPOINT):  # folders further down belong to other runs
            for unfinished in part.glob(f"{TEMPORARY}*"):
                unfinished.unlink(missing_ok=True)
        yield


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"another process is training in {folder}; wait for its end, or stop it"
        raise CheckpointError("RUN_IN_USE", message) from error


def _try_to_write(folder: Path) -> None:
    """Check that the folder can be written to; create nothing."""
    parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{parent} is a file")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        message = f"no file can be created in {parent}: {error.strerror}"
        raise OSError(error.errno, message) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into `CheckpointError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        message = f"{folder} cannot be written to ({error.strerror or error}); "
        if os.access(folder / SNAPSHOT_FILE, os.R_OK):
            cure = "make room" if full else "make it writable"
            message += f"the older files are unharmed: {cure}, then continue with --resume"
        else:
            message += f"{'make room, or ' if full else ''}choose another --out"
        raise CheckpointError("WRITE_FAILED", message) from error


def _start(config: RunConfig, extensions: Extensions) -> Checkpoint | None:
    """Load the checkpoint that a new run starts from; None for a random start."""
    if not config.train.start:
        return None
    ops, relaxations = extensions.ops, extensions.relaxations
    checkpoint = load_checkpoint(Path(config.train.start), ops=ops, relaxations=relaxations)
    check_start(checkpoint, config)
    return checkpoint


def _train(
    trainer: MetaTrainer,
    folder: Path,
    best: Best,
    trunk: Trunk | None,
    on_progress: Callable[[Progress], None],
    requests: Requests,
) -> Best:
    """Iterate to the last iteration or a request to stop; return the best validation."""
    settings = trainer.config.train
    written, snapshot, due = time.monotonic(), trainer.iteration, False
    while trainer.iteration < settings.iterations and not requests.stopping():
        with _diverging(folder, trainer.iteration + 1, snapshot):
            try:
                progress = trainer.iterate()
            except ClusterError:
                if _sound(trainer, snapshot):
                    with _writing(folder):
                        save_snapshot(folder, trainer, best)
                if requests.stopping():  # the signal may have reached the cluster, too
                    return best
                raise
            on_progress(progress)
            with _writing(folder):
                validated = not math.isnan(progress.pruned)
                if validated and progress.pruned > best.accuracy:
                    best = Best(progress.pruned, progress.iteration)
                    _save(folder, trainer, progress, trunk)
                if validated or progress.iteration % settings.log_every == 0:
                    append_log(folder, dataclass_json.dump(progress))
                due |= progress.iteration % settings.snapshot_every == 0 or requests.snapshot
                due |= time.monotonic() - written > settings.snapshot_seconds
                due |= requests.stopping() or progress.iteration == settings.iterations
                if due and _sound(trainer, snapshot):
                    requests.snapshot = due = False
                    save_snapshot(folder, trainer, best)
                    written, snapshot = time.monotonic(), trainer.iteration
    return best


def _sound(trainer: MetaTrainer, snapshot: int) -> bool:
    """Return True if the run may replace its snapshot, which is of the iteration `snapshot`."""
    return snapshot == 0 or trainer.sound()


@contextmanager
def _diverging(folder: Path, iteration: int, snapshot: int) -> Iterator[None]:
    """Name the last snapshot in the error of an iteration that diverges."""
    try:
        yield
    except Diverged as error:
        message = f"meta-iteration {iteration} diverged: {error}. {folder / SNAPSHOT_FILE} holds "
        message += f"the run after iteration {snapshot}: continue from it with --resume and "
        message += "lower rates, for example --set train.meta_lr_weights=..., train.weight_lr=... "
        raise Diverged(message + "or search.alpha_lr=...") from error


def _save(folder: Path, trainer: MetaTrainer, progress: Progress, trunk: Trunk | None) -> None:
    """Write the checkpoint of the run, its model card and its configuration."""
    checkpoint, config = folder / CHECKPOINT, trainer.config
    card = card_of(trainer, progress, training_seconds(read_log(folder)))
    card = save_checkpoint(checkpoint, card, trainer.supernet, trainer.saved, trunk)
    write_atomic(checkpoint / PAGE_FILE, card_markdown(card).encode())
    path, *more = _names(config)
    shared = replace(  # without the folders of this machine
        config,
        data=replace(config.data, path=path, more=tuple(more)),
        train=replace(config.train, start=Path(config.train.start).name),
    )
    text = json.dumps(dataclass_json.dump(shared), indent=2) + "\n"
    write_atomic(checkpoint / CONFIG_FILE, text.encode())


def _names(config: RunConfig) -> list[str]:
    """Return the names of the data sets without their folders."""
    return [Path(path).name for path in (config.data.path, *config.data.more)]


def card_of(trainer: MetaTrainer, progress: Progress, seconds: float) -> CheckpointCard:
    """Make the card of the run's checkpoint: its validation, and the wall seconds of training."""
    config, code = trainer.config, revision()
    return CheckpointCard(
        name=config.name,
        description=config.description,
        input=config.input,
        space=config.space,
        defaults=config.adapt,
        augment=config.augment,
        photo=config.photo,
        views=config.views,
        relaxation=config.search.relaxation,
        task_optimizer=config.train.task_optimizer,
        rates=trainer.rates,
        parameters=trainer.layout.size,
        weights_sha256="",
        provenance={
            "data": ", ".join(_names(config)),
            "split": config.data.train_split,
            "terms": config.data.licence or "not stated",
            "meta_learner": config.train.meta_learner,
            "iterations": str(trainer.iteration),
            "validation": f"{progress.pruned:.1%} pruned, {progress.soft:.1%} soft, "
            f"before adaptation, {config.train.validation_episodes} episodes of split "
            f"{config.data.val_split}",
            "seed": str(config.train.seed),
            "software": f"metanas {__version__}, torch {torch.__version__}",
            **({"revision": code} if code else {}),
            "machine": f"{machine()}, {torch.get_num_threads()} used by torch",
            "time": duration(seconds),
            "date": datetime.now(UTC).date().isoformat(),
        },
    )
