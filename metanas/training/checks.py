"""Checks of a meta-training before it begins."""

from collections import Counter

from metanas.checkpoint import Checkpoint
from metanas.errors import CheckpointError, DatasetError, InvalidInput
from metanas.supernet.supernet import Supernet
from metanas.training.config import RunConfig
from metanas.util.dataclass_json import differences
from metanas.util.formatting import counted
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features

VALIDATION_QUERIES = 5
STEP_BYTES = 128 * 2**30
"""Most bytes of activations that a stack of tasks may keep for the backward pass: 128 GiB."""


def check_memory(config: RunConfig, supernet: Supernet) -> None:
    """Check that the estimated memory of a step is not absurd.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE.
    """
    tasks = min(config.train.stack or config.train.tasks, config.train.tasks)
    needed = sum(supernet.activation_bytes(config.input.size)) * config.task.images * tasks
    if needed > STEP_BYTES:
        message = f"steps of {config.task.images} images, {tasks} of them stacked, keep about "
        message += f"{needed / 2**30:,.0f} GiB; at most {STEP_BYTES / 2**30:.0f} GiB are allowed: "
        message += "lower task.images, or train.stack"
        raise InvalidInput.single("task.images", "OPTION_OUT_OF_RANGE", message)


def check_start(checkpoint: Checkpoint, config: RunConfig) -> None:
    """Check that a run can start from a checkpoint: same search space, same input.

    Raises:
        CheckpointError: CHECKPOINT_FORMAT.
    """
    card = checkpoint.card
    pairs = {"space": (card.space, config.space), "input": (card.input, config.input)}
    for section, (there, here) in pairs.items():
        if differing := differences(there, here):
            message = f"checkpoint {card.name!r} has another [{section}]: {'; '.join(differing)}"
            raise CheckpointError("CHECKPOINT_FORMAT", message)


def check_data(config: RunConfig, train: Classes | Features, val: Classes | Features) -> None:
    """Check that the data has enough classes, and images of each class, for all tasks.

    Raises:
        DatasetError: DATASET_TOO_FEW_CLASSES, DATASET_TOO_FEW_IMAGES.
    """
    task = config.task
    _check_classes("training", train, task.ways[1], "lower task.ways")
    if task.groups and config.data.more:
        _check_domains(train, task.ways[1])
    _check_classes("validation", val, 2, "name another data.val_split")
    _check_images("training", train, 1 + max(task.shots), "lower task.shots")
    if task.round_robin:  # the smallest class limits the images of each
        _check_images("training", train, task.images // task.ways[1], "lower task.images")
    _check_images("validation", val, 1 + VALIDATION_QUERIES, "add images")


def _check_classes(split: str, classes: Classes | Features, least: int, remedy: str) -> None:
    if len(classes) < least:
        message = f"the {split} split has {counted(len(classes), 'class', 'classes')}; {least} or "
        raise DatasetError("DATASET_TOO_FEW_CLASSES", f"{message}more are needed: {remedy}")


def _check_domains(train: Classes | Features, least: int) -> None:
    """Check that each data set has the classes of a task."""
    sizes = Counter(name.partition("/")[0] for name in train)
    few = [f"{name!r} ({size})" for name, size in sizes.items() if size < least]
    if few:
        message = f"tasks of one data set have up to {least} classes; fewer are in "
        message += f"{', '.join(few)}: lower task.ways, or leave it out"
        raise DatasetError("DATASET_TOO_FEW_CLASSES", message)


def _check_images(split: str, classes: Classes | Features, least: int, remedy: str) -> None:
    few = [name for name, members in classes.items() if len(members) < least]
    if few:
        some = ", ".join(f"{name!r} ({len(classes[name])})" for name in few[:3])
        has = "has" if len(few) == 1 else "have"
        message = f"{len(few)} of {counted(len(classes), 'class', 'classes')} of the {split} split "
        message += f"{has} fewer than {least} images, such as {some}; {remedy}, or leave them out"
        raise DatasetError("DATASET_TOO_FEW_IMAGES", message)
