"""Scores of a checkpoint's card, taken from stored evaluations of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from metanas.errors import CheckpointError
from metanas.spec.card import (
    CARD_FILE,
    PAGE_FILE,
    CheckpointCard,
    card_markdown,
    read_card,
    stored_json,
)
from metanas_data.errors import EvaluationError
from metanas_data.evaluations import StoredEvaluation, read_evaluation, summary_of
from metanas_data.files import write_atomic

Scores = Mapping[str, Mapping[str, float]]
"""Setting -> figures, accuracies in percent."""
USUAL = {"reseed": 0}
"""What scores are measured with, where an evaluation says it."""


def add_scores(folder: Path, evaluations: Sequence[Path]) -> Scores:
    """Write the figures of evaluations into the card of the checkpoint in `folder`; return them.

    New figures replace those of the same setting. All other fields of the file stay as they are, so
    the digest does not change. A README.md that was generated from the card is generated again.

    Raises:
        CheckpointError: no checkpoint, a damaged card, or one that cannot be written.
        EvaluationError: no evaluation; one of another checkpoint, with other options than its
            defaults, or of too few episodes.
    """
    card = read_card(folder)
    found = dict(score_of(card, read_evaluation(path), path) for path in evaluations)
    told = replace(card, scores={**card.scores, **found})
    page = folder / PAGE_FILE
    try:
        made = page.exists() and page.read_text(encoding="utf-8") == card_markdown(card)
        stored = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        text = stored_json({**stored, "scores": told.scores})
        write_atomic(folder / CARD_FILE, text.encode())
        if made:
            write_atomic(page, card_markdown(told).encode())
    except OSError as error:
        message = f"{folder} cannot be written to ({error}); make room, or see whose it is"
        raise CheckpointError("WRITE_FAILED", message) from error
    return found


def score_of(
    card: CheckpointCard, stored: StoredEvaluation, path: Path
) -> tuple[str, Mapping[str, float]]:
    """The setting of an evaluation of this checkpoint, and its figures."""
    check_told(card, stored, path)
    settings = stored.settings
    summary = summary_of(stored.episodes)
    name = f"{settings['ways']}-way {settings['shots']}-shot, {settings['dataset']}"
    if settings.get("split"):
        name += f" {settings['split']}"
    percent = {key: round(100 * summary[key], 2) for key in ("accuracy", "interval95")}
    return name, {**percent, "episodes": float(summary["episodes"])}


def check_told(card: CheckpointCard, stored: StoredEvaluation, path: Path) -> None:
    """Check that an evaluation is of this checkpoint, at its defaults.

    Raises:
        EvaluationError: it is not, or has too few episodes.
    """
    settings = stored.settings
    if settings.get("checkpoint_digest") != card.digest:
        message = f"{path} is of another checkpoint than {card.name} as it is now; evaluate it anew"
        raise EvaluationError("EVALUATION_SETTINGS", message)
    defaults, options = json.loads(json.dumps(card.defaults.to_dict())), settings["options"]
    if other := [name for name, value in defaults.items() if options.get(name) != value]:
        message = f"{path} is with {other[0]} = {options.get(other[0])}, not the checkpoint's "
        message += "default; a card tells of its defaults, so evaluate without --set"
        raise EvaluationError("EVALUATION_SETTINGS", message)
    if other := [name for name, usual in USUAL.items() if settings.get(name, usual) != usual]:
        message = f"{path} is with {other[0]} = {settings[other[0]]}; a card's figures are with "
        message += f"{USUAL[other[0]]}, so evaluate with that"
        raise EvaluationError("EVALUATION_SETTINGS", message)
    if len(stored.episodes) < 2:
        message = f"{path} has too few episodes for an interval; evaluate with more --episodes"
        raise EvaluationError("TOO_FEW_EPISODES", message)
