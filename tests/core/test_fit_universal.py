"""The fit of the universal search space, and its command."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.__main__ import main
from metanas.adaptation.scheduler import adapt
from metanas.adaptation.universal import load_universal
from metanas.evaluation.branch_episodes import NO_QUERY, WAYS, Episodes, turned
from metanas.evaluation.fit_universal import fit
from metanas.spec.universal import DESCRIPTION
from metanas.testing import make_checkpoint
from tests.core.test_universal import OPTIONS, examples_of, photos


def episodes_of(useful: int, count: int = 24) -> Episodes:
    """One-shot episodes in which the first or the second of two branches sees the classes."""
    random = np.random.default_rng(useful)
    labels = np.tile(np.arange(WAYS), 4)
    features = []
    for _ in range(count):
        signal = np.eye(WAYS)[labels] + 0.3 * random.normal(size=(len(labels), WAYS))
        noise = random.normal(size=(len(labels), WAYS))
        pair = [signal, noise] if useful == 0 else [noise, signal]
        pair = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in pair]
        features.append(torch.tensor(np.stack(pair, axis=1), dtype=torch.float32))
    queries = torch.tensor(np.tile(labels[WAYS:], (count, 1)))
    queries[:, -1] = NO_QUERY
    descriptions = torch.zeros(count, 1, DESCRIPTION)
    descriptions[..., useful] = 1.0
    return Episodes(1, torch.stack(features), queries, descriptions)


def test_the_fit_gives_each_kind_of_task_its_branch() -> None:
    kinds = [episodes_of(0), episodes_of(1)]
    fitted = fit(kinds, torch.tensor([1.0, 1.0]), 0.0)
    shares = [fitted.shares(each.descriptions[0, 0]) for each in kinds]
    assert shares[0][0] > 0.8
    assert shares[1][1] > 0.8
    alike = fit(kinds, torch.tensor([1.0, 1.0]), 0.0, conditional=False)
    same = [alike.shares(each.descriptions[0, 0]) for each in kinds]
    torch.testing.assert_close(same[0], same[1])
    assert 0.3 < float(same[0][0]) < 0.7


def test_a_price_moves_shares_to_the_cheap_branch() -> None:
    kinds = [episodes_of(0), episodes_of(1)]
    free, dear = (
        fit(kinds, torch.tensor([0.1, 1.0]), price).shares(kinds[1].descriptions[0, 0])
        for price in (0.0, 3.0)
    )
    assert dear[0] > free[0] + 0.1


def test_a_branch_beside_another_gets_no_share() -> None:
    kinds = [episodes_of(0), episodes_of(1)]
    fitted = fit(kinds, torch.tensor([1.0, 1.0]), 0.0, own=torch.tensor([False, True]))
    for each in kinds:
        assert float(fitted.shares(each.descriptions[0, 0])[0]) < 1e-9


def test_turned_features_have_the_products_of_the_features() -> None:
    features = torch.randn(7, 300, generator=torch.Generator().manual_seed(0))
    numbers = turned(features)
    assert numbers.shape == (7, 7)
    torch.testing.assert_close(numbers @ numbers.T, features @ features.T, atol=1e-3, rtol=1e-4)


CONFIG = """
[defaults]
head = "ridge"
steps = 0
tuning_steps = 0
[branches.strokes]
checkpoint = "grey"
[branches.colours]
checkpoint = "colour"
"""


def test_the_command_fits_the_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, channels in (("grey", 1), ("colour", 3)):
        make_checkpoint(tmp_path / "all" / name, channels=channels, options=OPTIONS)
    random = np.random.default_rng(0)
    images = {
        name: random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8) for name in "abcdefghij"
    }
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", **images)  # type: ignore[arg-type]
    (tmp_path / "u.toml").write_text(CONFIG, encoding="utf-8")
    arguments = ["universal", str(tmp_path / "u.toml"), "--checkpoints", str(tmp_path / "all")]
    data = [str(tmp_path / "one.npz"), str(tmp_path / "two.npz")]
    assert main([*arguments, "--data", *data, "--episodes", "2"]) == 0
    space = load_universal(tmp_path / "all")
    assert list(space.universal.branches) == ["strokes", "colours"]
    printed = capsys.readouterr().out.splitlines()
    titles = "| data | shots | strokes | colours | all alike | by task | another's | left out |"
    assert printed[0] == titles
    assert [line.split(" | ")[0] for line in printed[2:]] == ["| one"] * 2 + ["| two"] * 2 + [
        "| mean"
    ]
    assert adapt(space, examples_of(photos())).report.checkpoint == "universal"


def test_the_command_refuses_defaults_that_no_request_could_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, channels in (("grey", 1), ("colour", 3)):
        make_checkpoint(tmp_path / name, channels=channels, options=OPTIONS)
    config = CONFIG.replace("steps = 0", "steps = 0\nshift_pixels = 9", 1)
    (tmp_path / "u.toml").write_text(config, encoding="utf-8")
    given = ["universal", str(tmp_path / "u.toml"), "--checkpoints", str(tmp_path)]
    assert main([*given, "--data", str(tmp_path)]) == 2
    assert "defaults.shift_pixels: must be less than" in capsys.readouterr().err


def test_the_command_needs_the_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "u.toml").write_text(CONFIG, encoding="utf-8")
    given = ["universal", str(tmp_path / "u.toml"), "--checkpoints", str(tmp_path)]
    assert main([*given, "--data", str(tmp_path)]) == 2
    assert "CHECKPOINT_MISSING" in capsys.readouterr().err
