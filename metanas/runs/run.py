"""A meta-training run on disk: its log, its snapshots, its best checkpoint.

Notable:
- With the same number of threads, a run that was killed at any moment and resumed ends with the
  same bits as one that was not.
- The log has no gaps and nothing twice: what it says of iterations after the snapshot is dropped
  when the run goes on from there.
- While a network that mostly did better does no better than guessing there are no snapshots: it may
  have collapsed, and the one of before is what to go on from then.
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
from metanas.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from metanas.errors import CheckpointError, ClusterError, Diverged, InvalidInput
from metanas.nn.pretrained import pretrained_trunk
from metanas.nn.trunk import Trunk
from metanas.runs.log import (
    CHECKPOINT,
    CONFIG_FILE,
    LOG_FILE,
    SNAPSHOT_FILE,
    reached,
    read_run,
    seconds_of,
)
from metanas.runs.signals import Requests
from metanas.runs.snapshots import Best, check_snapshot, load_snapshot, save_snapshot, what_else
from metanas.spec.card import PAGE_FILE, CheckpointCard, card_markdown
from metanas.training.checks import check_start
from metanas.training.config import RunConfig
from metanas.training.dataset import classes_of
from metanas.training.extensions import Extensions, Learner
from metanas.training.features import OnImages
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
    """Train to the end, or on from the last snapshot; returns the best validation.

    The folder is this process's own for as long.

    requests: started when the data are read, and then checked after every iteration; `stop` ends
        the run with a snapshot.
    extensions: what the configuration's names stand for, the data set's included.
    learner: makes what runs the inner loops; by default they run in this process.
    on_images: called while a trunk goes through the data, before the first iteration.

    Raises:
        DatasetError: the data cannot be used.
        CheckpointError: nothing to start or to resume from, something damaged, or a run that is
            already there, or under way in another process; or something could not be written
            (WRITE_FAILED), and what was there before still is.
        InvalidInput: a run to resume that is further than `train.iterations`.
        Diverged: the loss became NaN or infinite, or stays that of guessing; the last snapshot is
            from before.
        ClusterError: workers are lost for good; there is a snapshot of just before.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    revision()  # of the code that runs: its folder may change meanwhile
    # what needs no data comes before them: they take longer
    extensions = extensions or Extensions()
    extensions.check(config)
    if resume:
        check_snapshot(folder, config)
        _check_left(folder, config.train.iterations)
        with _own(folder):  # now rather than after the data: does another process train here?
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
    with _own(folder):
        if not resume:  # another process may have begun and ended one while this one read the data
            _refuse_another(folder)
        best = load_snapshot(folder, trainer) if resume else Best()
        with _writing(folder):
            _rewind_log(folder / LOG_FILE, trainer.iteration)
            if not resume:  # whoever cannot write hears of it now; and there is one to resume
                save_snapshot(folder, trainer, best)
        return _train(trainer, folder, best, trunk, on_progress, requests)


def _check_left(folder: Path, iterations: int) -> None:
    """Refuse to go on with a run that is further than it is to come; say if it is there."""
    at = reached(folder)
    told = f"the run is at iteration {at}, train.iterations is {iterations}: nothing to do"
    if at > iterations:
        told += "; go on with the same --set as before, or ask for more iterations"
        raise InvalidInput.single("train.iterations", "OPTION_OUT_OF_RANGE", told)
    if at == iterations:
        log.warning("%s", told)


def _refuse_another(folder: Path) -> None:
    """Refuse to write a new run over one that is there."""
    if (folder / SNAPSHOT_FILE).exists():
        message = f"{folder} holds a run already; go on with --resume, or choose another --out"
        raise CheckpointError("RUN_EXISTS", message)
    if any((folder / name).exists() for name in (LOG_FILE, CHECKPOINT)):
        message = f"{folder} holds what is left of a run, without a {SNAPSHOT_FILE} to resume from"
        raise CheckpointError("RUN_EXISTS", f"{message}; {what_else(folder)}")


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Keep other processes from training here, and clear away what one that was killed has left."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    with lock:
        with _writing(folder):  # not every file system has locks
            _lock(lock, folder)
        for part in (folder, folder / CHECKPOINT):  # further down are other runs' folders
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
    """Check that a folder can hold files, without leaving one, or a folder."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, f"no file can be made in {there}: {error.strerror}") from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into `CheckpointError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        message = f"{folder} cannot be written to ({error.strerror or error}); "
        if os.access(folder / SNAPSHOT_FILE, os.R_OK):
            message += "what was there before is unharmed: "
            message += f"{'make room' if full else 'see to that'}, then go on with --resume"
        else:
            message += f"{'make room, or ' if full else ''}choose another --out"
        raise CheckpointError("WRITE_FAILED", message) from error


def _start(config: RunConfig, extensions: Extensions) -> Checkpoint | None:
    """The checkpoint that a new run starts from, if it has one."""
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
    settings = trainer.config.train
    written, kept, due = time.monotonic(), trainer.iteration, False
    while trainer.iteration < settings.iterations and not requests.stopping():
        with _diverging(folder, trainer.iteration + 1, kept):
            try:
                seen = trainer.iterate()
            except ClusterError:
                if _better(trainer, kept):
                    with _writing(folder):
                        save_snapshot(folder, trainer, best)
                if requests.stopping():  # the cluster may have had the same signal
                    return best
                raise
            on_progress(seen)
            with _writing(folder):
                validated = not math.isnan(seen.pruned)
                if validated and seen.pruned > best.accuracy:
                    best = Best(seen.pruned, seen.iteration)
                    _save(folder / CHECKPOINT, trainer, seen, trunk)
                if validated or seen.iteration % settings.log_every == 0:
                    _log(folder / LOG_FILE, seen)
                due |= seen.iteration % settings.snapshot_every == 0 or requests.snapshot
                due |= time.monotonic() - written > settings.snapshot_seconds
                due |= requests.stopping() or seen.iteration == settings.iterations
                if due and _better(trainer, kept):
                    requests.snapshot = due = False
                    save_snapshot(folder, trainer, best)
                    written, kept = time.monotonic(), trainer.iteration
    return best


def _better(trainer: MetaTrainer, kept: int) -> bool:
    """Return True if a snapshot is no worse than that of iteration `kept`; the untrained always."""
    return kept == 0 or trainer.sound()


@contextmanager
def _diverging(folder: Path, iteration: int, kept: int) -> Iterator[None]:
    """Add the last snapshot to the error of an iteration that diverges."""
    try:
        yield
    except Diverged as error:
        # no snapshot of just before: what diverges now has been going wrong for a while
        message = f"meta-iteration {iteration} diverged: {error}. {folder / SNAPSHOT_FILE} holds "
        message += f"the run as it was after iteration {kept}: go on from there with --resume and "
        message += "lower rates, for example --set train.meta_lr_weights=..., train.weight_lr=... "
        raise Diverged(message + "or search.alpha_lr=...") from error


def _log(path: Path, seen: Progress) -> None:
    values = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in dataclass_json.dump(seen).items()
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **values}) + "\n")


def _rewind_log(path: Path, iteration: int) -> None:
    """Drop what the log says of later iterations, and a line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["iteration"] <= iteration and line.endswith("\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomic(path, "".join(kept).encode())


def _save(folder: Path, trainer: MetaTrainer, seen: Progress, trunk: Trunk | None) -> None:
    """Write the checkpoint and its model card."""
    card = card_of(trainer, seen, sum(seconds_of(read_run(folder.parent))))
    card = save_checkpoint(folder, card, trainer.supernet, trainer.saved, trunk)
    write_atomic(folder / PAGE_FILE, card_markdown(card).encode())
    config = trainer.config
    path, *more = _names(config)
    told = replace(
        config,
        data=replace(config.data, path=path, more=tuple(more)),
        train=replace(config.train, start=Path(config.train.start).name),
    )
    write_atomic(
        folder / CONFIG_FILE, (json.dumps(dataclass_json.dump(told), indent=2) + "\n").encode()
    )


def _names(config: RunConfig) -> list[str]:
    """The data sets without the folders that they lie in."""
    return [Path(path).name for path in (config.data.path, *config.data.more)]


def card_of(trainer: MetaTrainer, seen: Progress, seconds: float) -> CheckpointCard:
    """The card of the checkpoint that the run would write now, validated as `seen` says.

    seconds: that the training took, as its log has it.
    """
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
            "validation": f"{seen.pruned:.1%} pruned, {seen.soft:.1%} soft, before adaptation, "
            f"{config.train.validation_episodes} episodes of split {config.data.val_split}",
            "seed": str(config.train.seed),
            "software": f"metanas {__version__}, torch {torch.__version__}",
            **({"revision": code} if code else {}),
            "machine": f"{machine()}, {torch.get_num_threads()} used by torch",
            "time": duration(seconds),
            "date": datetime.now(UTC).date().isoformat(),
        },
    )
