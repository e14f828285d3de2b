"""Scores on the card of a checkpoint, from stored evaluations."""

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


def add_scores(folder: Path, evaluations: Sequence[Path]) -> Scores:
    """Write the figures of evaluations into the card of the checkpoint in `folder`; return them.

    New figures replace those of the same setting. The other fields of the file stay, so the digest
    does not change. A README.md that was generated from the card is generated again.

    Raises:
        CheckpointError: there is no checkpoint, or its card is damaged or cannot be written.
        EvaluationError: a file is no evaluation, or one that `check_scorable` refuses.
    """
    card = read_card(folder)
    scores = dict(score_of(card, read_evaluation(path), path) for path in evaluations)
    scored = replace(card, scores={**card.scores, **scores})
    page = folder / PAGE_FILE
    try:
        generated = page.exists() and page.read_text(encoding="utf-8") == card_markdown(card)
        stored = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        text = stored_json({**stored, "scores": scored.scores})
        write_atomic(folder / CARD_FILE, text.encode())
        if generated:
            write_atomic(page, card_markdown(scored).encode())
    except OSError as error:
        message = f"cannot write to {folder} ({error}); make room, or check its permissions"
        raise CheckpointError("WRITE_FAILED", message) from error
    return scores


def score_of(
    card: CheckpointCard, stored: StoredEvaluation, path: Path
) -> tuple[str, Mapping[str, float]]:
    """Return the setting of an evaluation of this checkpoint, and its figures."""
    check_scorable(card, stored, path)
    settings = stored.settings
    summary = summary_of(stored.episodes)
    name = f"{settings['ways']}-way {settings['shots']}-shot, {settings['dataset']}"
    if settings.get("split"):
        name += f" {settings['split']}"
    percent = {key: round(100 * summary[key], 2) for key in ("accuracy", "interval95")}
    return name, {**percent, "episodes": float(summary["episodes"])}


def check_scorable(card: CheckpointCard, stored: StoredEvaluation, path: Path) -> None:
    """Check that an evaluation is of this checkpoint at its defaults, and has an interval.

    Raises:
        EvaluationError: EVALUATION_SETTINGS, TOO_FEW_EPISODES.
    """
    settings = stored.settings
    if settings.get("checkpoint_digest") != card.digest:
        message = f"{path} is of another version of {card.name}; evaluate this checkpoint"
        raise EvaluationError("EVALUATION_SETTINGS", message)
    options = settings["options"]
    for name, default in json.loads(json.dumps(card.defaults.to_dict())).items():
        if options.get(name) != default:
            message = f"{path} has {name} = {options.get(name)}; evaluate with {default}"
            raise EvaluationError("EVALUATION_SETTINGS", message)
    if len(stored.episodes) < 2:
        message = f"{path} has too few episodes for an interval; evaluate with more --episodes"
        raise EvaluationError("TOO_FEW_EPISODES", message)
