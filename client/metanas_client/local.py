"""Adaptation in this process: the core makes the model that a server would make.

Needs the extra "local". The values that enter and leave are those of a call to a server.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING

from metanas_client.checks import PREFIX, UNIVERSAL, check_sizes, choose_name, name_sources
from metanas_client.convert import Job, spec_message
from metanas_client.errors import AdaptationFailed, InvalidInput, TimedOut, Violation
from metanas_client.extras import needs
from metanas_client.model import Model
from metanas_client.resources import Limits, ModelInfo, Progress, Variant
from metanas_client.support import read_contents

if TYPE_CHECKING:
    import metanas
    import metanas.spec.progress

OnProgress = Callable[[Progress], None]


def adapt_here(
    job: Job, checkpoints: Path | None, on_progress: OnProgress = lambda progress: None
) -> Model:
    """Adapt in this process.

    Args:
        job: the request; its support set is a folder.
        checkpoints: folder of checkpoints; None takes those of the package metanas-checkpoints.
        on_progress: called with each progress event.

    Raises:
        MissingExtra: the extra "local" is not installed.
        InvalidInput, NotFound, TimedOut, AdaptationFailed: as from a server.
        MetanasError: a checkpoint is damaged.
    """
    with needs("local"):
        import metanas
        from metanas.errors import Cancelled, Diverged, ExportMismatch, OutOfMemory
    spec_message(job)
    check_sizes(job.support, Limits(**asdict(metanas.Limits())))
    source = _source(checkpoints, job.checkpoint)
    seconds, option = min((job.timeout or inf, "timeout"), (job.deadline or inf, "deadline"))
    end = time.monotonic() + seconds
    try:
        made = metanas.adapt(
            source,
            [metanas.Example(_text(label), image) for label, image in _encoded(job)],
            classes=[_text(label) for label in job.support.classes],
            options=job.options,
            seed=job.seed,
            on_progress=_numbered(on_progress),
            should_stop=lambda: time.monotonic() > end,
        )
    except metanas.InvalidInput as error:
        raise name_sources(_refused(error), job.support) from error
    except Cancelled as error:
        message = f"the adaptation took longer than {seconds:g} s; allow more with --{option}"
        raise TimedOut("ADAPTATION_TIMEOUT", message) from error
    except (Diverged, ExportMismatch, OutOfMemory) as error:
        raise AdaptationFailed(error.reason, error.message) from error
    return Model(made.onnx, _info(made))


def convert_here(model: Model, variant: Variant) -> Model:
    """Convert a model in this process.

    Raises:
        InvalidInput: as from a server.
    """
    given = {name: value for name, value in asdict(variant).items() if value}
    if not given:
        return model
    with needs("local"):
        import metanas
    try:
        data = metanas.convert(model.onnx, metanas.Variant(**given))
    except metanas.InvalidInput as error:
        raise _refused(error.within("variant")) from error
    digest = hashlib.sha256(data).hexdigest()
    return Model(data, replace(model.info, sha256=digest, size=len(data)))


def _refused(error: "metanas.InvalidInput") -> InvalidInput:
    return InvalidInput(
        [Violation(each.field, each.reason, each.message) for each in error.violations]
    )


def _source(folder: Path | None, name: str) -> "metanas.Checkpoint | metanas.UniversalSpace":
    """Load the checkpoint of that name, or the universal search space."""
    from metanas import load_checkpoint, load_universal
    from metanas.spec.card import CARD_FILE, read_card
    from metanas.spec.universal import UNIVERSAL_FILE

    if folder is None:
        with needs("local"):
            folder = Path(str(files("metanas_checkpoints")))
    cards = sorted(folder.glob(f"*/{CARD_FILE}"))
    known = {card.parent.name: read_card(card.parent).description for card in cards}
    if (folder / UNIVERSAL_FILE).exists():
        known[UNIVERSAL] = "the images choose the networks"
    chosen = choose_name(known, name, str(folder))
    return load_universal(folder) if chosen == UNIVERSAL else load_checkpoint(folder / chosen)


def _encoded(job: Job) -> "Sequence[tuple[bytes, bytes]]":
    """Read the files of a support set, which is a folder."""
    contents = read_contents(job.support)
    return [(label, image) for label, image in contents if isinstance(image, bytes)]


def _text(label: bytes) -> str:
    # the core refuses the surrogates, which stand for bytes that are not UTF-8
    return label.decode("utf-8", "surrogateescape")


def _numbered(on_progress: OnProgress) -> "Callable[[metanas.spec.progress.Progress], None]":
    """Convert progress events of the core, and number them as a server does."""
    count = 0

    def on_event(event: "metanas.spec.progress.Progress") -> None:
        nonlocal count
        count += 1
        on_progress(
            Progress(
                sequence=count,
                stage=event.stage,
                step=event.step,
                steps=event.steps,
                loss=_number(event.loss),
                accuracy=_number(event.accuracy),
                temperature=_number(event.temperature),
                entropy=_number(event.entropy),
            )
        )

    return on_event


def _number(value: float) -> float | None:
    return None if isnan(value) else value


def _info(made: "metanas.AdaptedModel") -> ModelInfo:
    return ModelInfo(
        name="",
        adaptation="",
        checkpoint=PREFIX + made.report.checkpoint,
        sha256=made.sha256,
        size=len(made.onnx),
        labels=made.labels,
        genotype_json=made.genotype.to_json(),
        report=made.report,
        create_time=None,
    )
