"""The choice of a checkpoint by the support set, and the file of the prior."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from PIL import ImageDraw

from metanas.__main__ import main
from metanas.adaptation.prior import Candidates, describe_support, load_candidates
from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import CheckpointError, InvalidInput
from metanas.evaluation.fit_prior import Episodes, fit
from metanas.images.support_set import Image
from metanas.spec.card import CARD_FILE, read_card
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig
from metanas.spec.prior import BINS, DESCRIPTION, PRIOR_FILE, Prior, prior_json, read_prior
from metanas.testing import make_checkpoint
from metanas_data.arrays import with_channels

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "meta_checkpoints"
CARDS = sorted(SHIPPED.glob(f"*/{CARD_FILE}"))
OPTIONS = AdaptConfig(steps=1, tuning_steps=1)


def colourfulness() -> tuple[float, ...]:
    """Weights of a prior that counts pixels of colour."""
    weights = np.zeros(DESCRIPTION)
    weights[BINS + 2 : 2 * BINS] = 100.0
    return tuple(weights.tolist())


def prior_of(checkpoints: dict[str, Checkpoint]) -> Prior:
    """A prior that takes `colour` for coloured images, and `grey` for others."""
    return Prior(
        checkpoints={name: each.card.digest for name, each in checkpoints.items()},
        weights=(colourfulness(), (0.0,) * DESCRIPTION),
        bias=(-1.0, 0.0),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    checkpoints = {
        "colour": make_checkpoint(root / "colour", channels=3, options=OPTIONS),
        "grey": make_checkpoint(root / "grey", channels=1, options=OPTIONS),
    }
    (root / PRIOR_FILE).write_text(prior_json(prior_of(checkpoints)), encoding="utf-8")
    return root


def photos(count: int = 6, channels: int = 3, side: int = 40) -> list[Image]:
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    images = patches.repeat(side // 5, axis=1).repeat(side // 5, axis=2)
    return [with_channels(image, channels) for image in images]


def examples_of(images: Sequence[Image]) -> list[Example]:
    return [Example("ab"[index % 2], image) for index, image in enumerate(images)]


@pytest.mark.parametrize(("channels", "name"), [(1, "grey"), (3, "colour")])
def test_the_support_set_chooses_the_checkpoint(folder: Path, channels: int, name: str) -> None:
    support = examples_of(photos(channels=channels))
    chosen = adapt(load_candidates(folder), support, options={"steps": 2}, seed=3)
    options = OPTIONS.replace({"steps": 2})
    named = adapt(load_checkpoint(folder / name), support, options=options, seed=3)
    assert chosen.onnx == named.onnx
    assert chosen.report.checkpoint == name
    assert max(chosen.report.prior, key=chosen.report.prior.__getitem__) == name
    assert sum(chosen.report.prior.values()) == pytest.approx(1)
    assert named.report.prior == {}
    assert chosen.report.options == options.to_dict()


def test_options_have_to_suit_each_candidate(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="no such option"):
        adapt(load_candidates(folder), examples_of(photos()), options={"stepz": 2})


@pytest.mark.parametrize("count", [6, 130])
def test_the_order_of_images_and_classes_does_not_matter(count: int) -> None:
    images = photos(count)
    labels = [str(index % 3) for index in range(count)]
    order = np.random.default_rng(1).permutation(count)
    renamed = {"0": "c", "1": "a", "2": "b"}
    shuffled = describe_support(
        [images[row] for row in order], [renamed[labels[row]] for row in order]
    )
    assert torch.equal(describe_support(images, labels), shuffled)


def test_ink_on_paper_and_light_strokes_look_alike() -> None:
    strokes = np.zeros((4, 56, 56, 1), np.uint8)
    for index, image in enumerate(strokes):
        image[10 + 4 * index : 16 + 4 * index, 8:48] = 255
    labels = ["a", "a", "b", "b"]
    dark, light = (
        describe_support(list(strokes), labels),
        describe_support(list(255 - strokes), labels),
    )
    torch.testing.assert_close(dark, light)
    # each pixel is in a bin of each histogram
    assert float(dark[:-1].sum()) == pytest.approx(DESCRIPTION // BINS)


def test_the_contrast_of_grey_images_does_not_matter() -> None:
    strokes = [image.astype(np.float32) for image in photos(channels=1)]
    faint = [(image * 0.5 + 90).round().astype(np.uint8) for image in strokes]
    whole = [((image - image.min()) / np.ptp(image) * 255).astype(np.uint8) for image in strokes]
    difference = describe_support(faint, list("ababab")) - describe_support(whole, list("ababab"))
    assert float(difference.abs().max()) < 0.05


def test_a_prior_survives_its_file(folder: Path) -> None:
    prior = read_prior(folder / PRIOR_FILE)
    assert read_prior(folder / PRIOR_FILE) == prior
    assert prior.digest == read_prior(folder / PRIOR_FILE).digest
    assert replace(prior, bias=(0.0, 0.0)).digest != prior.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored["bias"].append(1.0),
        lambda stored: stored["weights"].pop(),
        lambda stored: stored["weights"][0].pop(),
        lambda stored: stored["bias"].__setitem__(0, float("nan")),
        lambda stored: stored["checkpoints"].clear(),
        lambda stored: stored.update(format_version=2),
        lambda stored: stored.update(unknown=1),
    ],
)
def test_a_damaged_file_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    stored = json.loads((folder / PRIOR_FILE).read_text(encoding="utf-8"))
    damage(stored)
    path = tmp_path / PRIOR_FILE
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(CheckpointError, match=PRIOR_FILE) as caught:
        read_prior(path)
    assert caught.value.reason == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_a_file_that_is_no_prior_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / PRIOR_FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=PRIOR_FILE):
        read_prior(path)


def test_a_missing_prior_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metanas prior") as caught:
        load_candidates(tmp_path)
    assert caught.value.reason == "CHECKPOINT_MISSING"


def test_a_prior_takes_only_the_checkpoints_that_it_was_fitted_for(
    folder: Path, tmp_path: Path
) -> None:
    prior = read_prior(folder / PRIOR_FILE)
    grey = load_checkpoint(folder / "grey")
    with pytest.raises(CheckpointError, match=r"'colour' is missing.*metanas prior") as missing:
        Candidates(prior, {"grey": grey})
    assert missing.value.reason == "CHECKPOINT_MISSING"
    other = make_checkpoint(tmp_path / "colour", channels=3, options=OPTIONS, seed=1)
    with pytest.raises(CheckpointError, match=r"'colour' has changed.*metanas prior") as changed:
        Candidates(prior, {"grey": grey, "colour": other})
    assert changed.value.reason == "CHECKPOINT_CHANGED"


def test_the_fit_chooses_the_checkpoint_of_the_larger_mean_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    descriptions = torch.rand(2000, DESCRIPTION, generator=generator)
    right = (descriptions[:, 3] > 0.5).long()
    mean = 0.6 + 0.1 * torch.nn.functional.one_hot(right, 2)
    accuracies = (mean + 0.2 * torch.randn(2000, 2, generator=generator)).clamp(0, 1)
    weights, bias = fit([Episodes(descriptions, accuracies)])
    chosen = (descriptions.double() @ weights.T + bias).argmax(1)
    assert float((chosen == right).float().mean()) > 0.85


def test_the_command_fits_a_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, channels in (("grey", 1), ("colour", 3)):
        make_checkpoint(tmp_path / "all" / name, channels=channels, options=OPTIONS)
    random = np.random.default_rng(0)
    images = {
        name: random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8) for name in "abcdefghij"
    }
    np.savez(tmp_path / "data.npz", **images)  # type: ignore[arg-type]
    arguments = ["prior", str(tmp_path / "all"), "--data", str(tmp_path / "data.npz")]
    assert main([*arguments, "--episodes", "2"]) == 0
    candidates = load_candidates(tmp_path / "all")
    assert list(candidates.prior.checkpoints) == ["colour", "grey"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| data | shots | colour | grey | prior | left out | best |"
    assert [line.split(" | ")[0] for line in printed[2:]] == ["| data", "| data", "| mean"]


def test_the_command_needs_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prior", str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "CHECKPOINT_MISSING" in capsys.readouterr().err


def test_the_shipped_prior_suits_the_shipped_checkpoints() -> None:
    """After a change of a checkpoint it has to be fitted again."""
    prior = read_prior(SHIPPED / PRIOR_FILE)
    prior.check_checkpoints({path.parent.name: read_card(path.parent).digest for path in CARDS})
    assert set(prior.checkpoints) == {path.parent.name for path in CARDS}


def strokes(count: int = 6) -> list[Image]:
    """Handwriting in ink on paper: a curve for each image."""
    random, images = np.random.default_rng(0), list[Image]()
    for _ in range(count):
        page = Picture.new("L", (105, 105), "white")
        points = random.uniform(15, 90, (5, 2)).flatten().tolist()
        ImageDraw.Draw(page).line(points, fill="black", width=3, joint="curve")
        images.append(np.asarray(page)[:, :, None])
    return images


@pytest.mark.slow
def test_the_shipped_prior_takes_strokes_for_characters_and_colours_for_photographs() -> None:
    candidates = load_candidates(SHIPPED)
    assert adapt(candidates, examples_of(strokes())).report.checkpoint == "omniglot"
    assert adapt(candidates, examples_of(photos(side=200))).report.checkpoint == "photos"
