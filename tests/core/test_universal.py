"""The universal search space: shares by the support set, joined networks, its file and its fit."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from PIL import ImageDraw

from metanas.adaptation.scheduler import adapt
from metanas.adaptation.universal import (
    UniversalSpace,
    describe_support,
    load_universal,
    network_of,
    pruned,
)
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import CheckpointError, InvalidInput
from metanas.evaluation.fit_universal import costs_of
from metanas.export.runtime import run, session
from metanas.images.support_set import Image
from metanas.spec.card import CARD_FILE, read_card
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig
from metanas.spec.progress import Progress
from metanas.spec.universal import (
    BINS,
    DESCRIPTION,
    UNIVERSAL_FILE,
    Branch,
    Universal,
    UniversalConfig,
    macs_of_branches,
    parameters_of_branches,
    read_universal,
    universal_json,
)
from metanas.testing import make_checkpoint
from metanas_data.arrays import with_channels

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "meta_checkpoints"
CARDS = sorted(SHIPPED.glob(f"*/{CARD_FILE}"))
OPTIONS = AdaptConfig(steps=0, tuning_steps=0, head="ridge")
BRANCHES = {
    "small": Branch(checkpoint="colour", size=32),
    "large": Branch(checkpoint="colour", size=64),
    "frozen": Branch(checkpoint="colour", size=64, keep=1.0),
    "last": Branch(checkpoint="colour", size=64, last_block=True, beside="large"),
    "grey": Branch(checkpoint="grey"),
}


def colourfulness() -> tuple[float, ...]:
    """Weights of a prior that counts pixels of colour."""
    weights = np.zeros(DESCRIPTION)
    weights[BINS + 2 : 2 * BINS] = 100.0
    return tuple(weights.tolist())


def universal_of(checkpoints: dict[str, Checkpoint], least_share: float = 0.15) -> Universal:
    """A prior that takes trunks for coloured images, and `grey` for others."""
    config = UniversalConfig(branches=BRANCHES, least_share=least_share, defaults=OPTIONS)
    digests = {name: each.card.digest for name, each in checkpoints.items()}
    costs = {
        name: costs_of(network_of(checkpoints[branch.checkpoint], branch))
        for name, branch in BRANCHES.items()
    }
    return Universal(
        config=config,
        checkpoints=digests,
        costs=costs,
        weights=(colourfulness(),) * 3 + ((0.0,) * DESCRIPTION,) * 2,
        bias=(-1.0, -1.0, -1.0, -50.0, 2.0),
        scale=8.0,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_space(tmp_path_factory.mktemp("checkpoints"))


def write_space(root: Path) -> Path:
    """Write two small checkpoints and a universal search space of five branches."""
    pools = ((1, 2), (3, 1))
    checkpoints = {
        "colour": make_checkpoint(
            root / "colour", channels=3, size=64, trunk=True, pools=pools, options=OPTIONS
        ),
        "grey": make_checkpoint(root / "grey", channels=1, options=OPTIONS),
    }
    text = universal_json(universal_of(checkpoints))
    (root / UNIVERSAL_FILE).write_text(text, encoding="utf-8")
    return root


def photos(count: int = 6, channels: int = 3, side: int = 40) -> list[Image]:
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    images = patches.repeat(side // 5, axis=1).repeat(side // 5, axis=2)
    return [with_channels(image, channels) for image in images]


def examples_of(images: Sequence[Image]) -> list[Example]:
    return [Example("ab"[index % 2], image) for index, image in enumerate(images)]


def with_shares(space: UniversalSpace, shares: Mapping[str, float]) -> UniversalSpace:
    """The space with a prior that gives these shares to every task."""
    bias = tuple(float(np.log(max(shares.get(name, 0.0), 1e-9))) for name in BRANCHES)
    weights = ((0.0,) * DESCRIPTION,) * len(BRANCHES)
    return replace(space, universal=replace(space.universal, weights=weights, bias=bias))


def balanced(folder: Path, **shares: float) -> UniversalSpace:
    return with_shares(load_universal(folder), shares)


@pytest.mark.parametrize(("channels", "names"), [(1, {"grey"}), (3, {"large", "frozen"})])
def test_the_support_set_chooses_the_branches(folder: Path, channels: int, names: set[str]) -> None:
    support = examples_of(photos(channels=channels))
    model = adapt(load_universal(folder), support, seed=3)
    assert model.report.checkpoint == "universal"
    assert set(model.report.architecture) == names
    assert set(model.report.prior) == set(BRANCHES)
    for shares in (model.report.prior, model.report.architecture):
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert model.report.options == OPTIONS.to_dict()


@pytest.mark.parametrize(
    "shares",
    [
        {"large": 1.0},
        {"grey": 1.0},
        {"frozen": 1.0},
        {"large": 0.5, "frozen": 0.5},
        {"last": 1.0},
        {"large": 0.5, "last": 0.5},
        {"grey": 0.6, "large": 0.4},
        {"small": 0.4, "grey": 0.6},
        {"large": 0.25, "frozen": 0.25, "last": 0.25, "grey": 0.25},
    ],
)
@pytest.mark.parametrize("head", ["ridge", "prototype"])
def test_the_file_of_joined_networks_is_what_torch_computes(
    folder: Path, shares: dict[str, float], head: str
) -> None:
    space = balanced(folder, **shares)
    model = adapt(space, examples_of(photos(8)), options={"head": head})  # checks logits itself
    assert model.report.onnx_difference < 1e-4
    file = session(model.onnx)
    assert file.get_inputs()[0].shape[3] == (1 if set(shares) == {"grey"} else 3)
    some = [with_channels(image, file.get_inputs()[0].shape[3]) for image in photos(4, side=55)]
    together = run(file, some)
    np.testing.assert_allclose(together[2], run(file, some[2:3])[0], atol=1e-5)
    names = model.report.architecture
    assert set(names) == set(shares) | ({"last"} if set(shares) == {"large"} else set())
    costs = macs_of_branches(space.universal, names)
    assert model.report.macs == costs, "the prior's costs are those of the file"
    head_size = model.report.parameters - parameters_of_branches(space.universal, names)
    assert head_size % 2 == 0
    assert 0 < head_size < 10_000


def test_a_branch_alone_is_the_checkpoint_with_its_head(folder: Path) -> None:
    support = examples_of(photos(8))
    joined = adapt(balanced(folder, small=1.0), support)
    checkpoint = load_checkpoint(folder / "colour")
    small = replace(checkpoint.card.input, size=32)
    without_views = replace(checkpoint, card=replace(checkpoint.card, input=small, views=0))
    alone = adapt(without_views, support)
    queries = photos(5, side=30)
    one, other = (run(session(each.onnx), queries) for each in (joined, alone))
    np.testing.assert_array_equal(one.argmax(1), other.argmax(1))
    np.testing.assert_allclose(one / one.std(), other / other.std(), atol=1e-3)


def test_branches_of_one_trunk_and_size_run_it_once(folder: Path) -> None:
    support = examples_of(photos(6))
    one, both = (
        adapt(balanced(folder, **shares), support).report
        for shares in ({"frozen": 1.0}, {"large": 0.5, "frozen": 0.5})
    )
    assert both.macs < 1.2 * one.macs
    assert both.onnx_bytes < 1.2 * one.onnx_bytes


def test_the_same_request_gives_the_same_bytes(folder: Path) -> None:
    support = examples_of(photos(6))
    one, other = (adapt(load_universal(folder), support, seed=1) for _ in range(2))
    assert one.onnx == other.onnx


def test_steps_adapt_each_network(folder: Path) -> None:
    space, support = balanced(folder, small=0.5, grey=0.5), examples_of(photos(6))
    steps = list[Progress]()
    model = adapt(space, support, options={"steps": 2, "tuning_steps": 1}, on_progress=steps.append)
    assert (model.report.steps, model.report.tuning_steps) == (4, 2)
    assert [each.step for each in steps if each.stage == "adapt"] == [0, 1, 2, 0, 1, 2]
    assert model.sha256 != adapt(space, support).sha256


def test_progress_shows_the_architecture_as_it_is_found(folder: Path) -> None:
    steps = list[Progress]()
    space, support = balanced(folder, small=0.5, grey=0.5), examples_of(photos(6))
    model = adapt(space, support, on_progress=steps.append)
    shares = [(each.stage, each.architecture) for each in steps if each.architecture]
    assert shares == [("decode", model.report.architecture)]
    begun = [each.branch for each in steps if each.stage == "adapt"]
    assert begun == list(model.report.architecture)
    found = [each.genotype_json for each in steps if each.stage == "tune"]
    assert found[0] == model.genotype.to_json()


def test_options_have_to_suit_each_network(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="no such option"):
        adapt(load_universal(folder), examples_of(photos()), options={"stepz": 2})
    with pytest.raises(InvalidInput, match="pretrained trunk"):
        adapt(load_universal(folder), examples_of(photos()), options={"shift_pixels": 1})


def test_small_shares_are_pruned_and_the_largest_stays() -> None:
    kept = pruned({"a": 0.6, "b": 0.3, "c": 0.1}, 0.2)
    assert kept == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}
    assert pruned({"a": 0.4, "b": 0.3, "c": 0.3}, 0.5) == {"a": 1.0}


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


def test_the_space_survives_its_file(folder: Path) -> None:
    universal = read_universal(folder / UNIVERSAL_FILE)
    assert universal_json(universal) == (folder / UNIVERSAL_FILE).read_text(encoding="utf-8")
    assert replace(universal, scale=2.0).digest != universal.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored["bias"].append(1.0),
        lambda stored: stored["weights"].pop(),
        lambda stored: stored["weights"][0].pop(),
        lambda stored: stored["bias"].__setitem__(0, float("nan")),
        lambda stored: stored["checkpoints"].clear(),
        lambda stored: stored["costs"].pop("grey"),
        lambda stored: stored["config"]["branches"].clear(),
        lambda stored: stored["config"].update(least_share=1.5),
        lambda stored: stored.update(format_version=1),
        lambda stored: stored.update(unknown=1),
    ],
)
def test_a_damaged_file_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    stored = json.loads((folder / UNIVERSAL_FILE).read_text(encoding="utf-8"))
    damage(stored)
    path = tmp_path / UNIVERSAL_FILE
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(CheckpointError, match=UNIVERSAL_FILE) as caught:
        read_universal(path)
    assert caught.value.reason == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / UNIVERSAL_FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=UNIVERSAL_FILE):
        read_universal(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metanas universal") as caught:
        load_universal(tmp_path)
    assert caught.value.reason == "CHECKPOINT_MISSING"


def test_a_space_takes_only_the_checkpoints_that_it_was_fitted_for(
    folder: Path, tmp_path: Path
) -> None:
    universal = read_universal(folder / UNIVERSAL_FILE)
    grey = load_checkpoint(folder / "grey")
    with pytest.raises(CheckpointError, match=r"'colour', which is missing") as missing:
        UniversalSpace(universal, {"grey": grey})
    assert missing.value.reason == "CHECKPOINT_MISSING"
    other = make_checkpoint(tmp_path / "colour", channels=3, options=OPTIONS, seed=1)
    with pytest.raises(
        CheckpointError, match=r"'colour' has changed.*metanas universal"
    ) as changed:
        UniversalSpace(universal, {"grey": grey, "colour": other})
    assert changed.value.reason == "CHECKPOINT_CHANGED"


def test_the_shipped_space_suits_the_shipped_checkpoints() -> None:
    """After a change of a checkpoint it has to be fitted again."""
    universal = read_universal(SHIPPED / UNIVERSAL_FILE)
    universal.check_checkpoints({path.parent.name: read_card(path.parent).digest for path in CARDS})
    assert set(universal.checkpoints) == {path.parent.name for path in CARDS}


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
    space = load_universal(SHIPPED)
    drawn = adapt(space, examples_of(strokes())).report
    seen = adapt(space, examples_of(photos(side=200))).report
    branches = space.universal.branches
    small, large = (
        {branches[name].checkpoint for name in each.architecture} for each in (drawn, seen)
    )
    assert small & {"omniglot", "drawn"}
    assert "photos" in large
    assert 2 * drawn.macs < seen.macs
