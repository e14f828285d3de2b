"""Checkpoints: what is written is read, and every kind of damage is named."""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import safetensors.torch
import torch

from metanas.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metanas.errors import CheckpointError, Diverged, UnknownName
from metanas.nn.ops import OPS
from metanas.spec.card import CARD_FILE, read_card
from metanas.supernet.flat_params import Params
from metanas.testing import make_checkpoint
from metanas_data.files import write_atomic


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "tiny", size=8, width=2)
    return tmp_path / "tiny"


def same(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_what_is_saved_is_loaded(folder: Path, tmp_path: Path) -> None:
    first = load_checkpoint(folder)
    first.supernet.cell_alpha("reduce").alive[1, 2] = False
    card = save_checkpoint(tmp_path / "copy", first.card, first.supernet, first.params)
    second = load_checkpoint(tmp_path / "copy")
    assert same(first.params, second.params)
    assert second.card == card == read_card(tmp_path / "copy")
    assert not bool(second.supernet.cell_alpha("reduce").alive[1, 2])
    assert bool(second.supernet.cell_alpha("normal").alive.all())
    assert second.meta_genotype == first.meta_genotype
    assert card.weights_sha256 != first.card.weights_sha256
    assert card.digest != first.card.digest
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {CARD_FILE, card.weights_file}


def test_the_same_checkpoint_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_checkpoint(tmp_path / name / "tiny", seed=4)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "tiny").iterdir()}
        for name in ("one", "two")
    )
    assert len(one) == 2
    assert one == two


def test_saving_replaces_what_was_there(folder: Path) -> None:
    first = load_checkpoint(folder)
    doubled = {name: 2 * value for name, value in first.params.items()}
    save_checkpoint(folder, first.card, first.supernet, doubled)
    assert same(load_checkpoint(folder).params, doubled)


def test_whoever_reads_meanwhile_finds_a_whole_checkpoint(folder: Path) -> None:
    first = load_checkpoint(folder)
    both = [{name: factor * value for name, value in first.params.items()} for factor in (2, 3)]

    def write() -> None:
        for number in range(40):
            save_checkpoint(folder, first.card, first.supernet, both[number % 2])

    writer = Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            found = load_checkpoint(folder).params
            assert any(same(found, each) for each in (first.params, *both))
    finally:
        writer.join()
    assert same(load_checkpoint(folder).params, both[1])
    assert len(list(folder.iterdir())) == 2


def test_what_has_diverged_replaces_nothing(folder: Path) -> None:
    first = load_checkpoint(folder)
    wild = {name: value / 0 for name, value in first.params.items()}
    with pytest.raises(Diverged):
        save_checkpoint(folder, first.card, first.supernet, wild)
    assert same(load_checkpoint(folder).params, first.params)


def test_parameters_come_in_the_order_of_the_supernet(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert list(checkpoint.params) == [name for name, _ in checkpoint.supernet.named_parameters()]


# Damage: each takes a sound folder and breaks it.

Damage = Callable[[Path], None]


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Change the tensors and let the card vouch for the result."""

    def damage(folder: Path) -> None:
        loaded = safetensors.torch.load(weights(folder).read_bytes())
        change(loaded)
        raw(lambda _: safetensors.torch.save(loaded))(folder)

    return damage


def raw(change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of the weights and let the card vouch for the result."""

    def damage(folder: Path) -> None:
        changed = change(weights(folder).read_bytes())
        weights(folder).unlink()
        digest = hashlib.sha256(changed).hexdigest()
        card(lambda values: values.update(weights_sha256=digest))(folder)
        weights(folder).write_bytes(changed)

    return damage


def card(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / CARD_FILE
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


def text(content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / CARD_FILE).write_bytes(content)

    return damage


def weights(folder: Path) -> Path:
    """The file that the card names."""
    return folder / read_card(folder).weights_file


def flip(position: int) -> Damage:
    def damage(folder: Path) -> None:
        data = bytearray(weights(folder).read_bytes())
        data[position] ^= 4
        weights(folder).write_bytes(data)

    return damage


def nan(loaded: dict[str, torch.Tensor]) -> None:
    loaded["stem.0.weight"][0, 0, 0, 0] = torch.nan


def infinite(loaded: dict[str, torch.Tensor]) -> None:
    loaded["alpha.normal.ops"][0, 0] = -torch.inf


def dead_edge(loaded: dict[str, torch.Tensor]) -> None:
    loaded["alive.reduce"][2] = 0


def cut(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:-100])


def no_weights(folder: Path) -> None:
    weights(folder).unlink()


def no_card(folder: Path) -> None:
    (folder / CARD_FILE).unlink()


def pickled(data: bytes) -> bytes:
    return b"\x80\x04K\x01."


def huge_header(data: bytes) -> bytes:
    return struct.pack("<Q", 2**62) + data[8:]


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a bit of the weights": (flip(-5), "CHECKPOINT_DAMAGED"),
    "a bit of the weights' header": (flip(20), "CHECKPOINT_DAMAGED"),
    "cut short": (cut, "CHECKPOINT_DAMAGED"),
    "cut short, vouched for": (raw(lambda data: data[:-100]), "CHECKPOINT_DAMAGED"),
    "no weights": (no_weights, "CHECKPOINT_MISSING"),
    "a name that is none": (
        card(lambda c: c.update(weights_sha256="../\0")),
        "CHECKPOINT_MISSING",
    ),
    "no card": (no_card, "CHECKPOINT_MISSING"),
    "a pickle": (raw(pickled), "CHECKPOINT_DAMAGED"),
    "an empty file": (raw(lambda data: b""), "CHECKPOINT_DAMAGED"),
    "a header without end": (raw(huge_header), "CHECKPOINT_DAMAGED"),
    "a tensor missing": (tensors(lambda t: t.pop("stem.0.weight")), "CHECKPOINT_DAMAGED"),
    "a mask missing": (tensors(lambda t: t.pop("alive.normal")), "CHECKPOINT_DAMAGED"),
    "a tensor too many": (
        tensors(lambda t: t.update(extra=torch.zeros(2))),
        "CHECKPOINT_DAMAGED",
    ),
    "another shape": (
        tensors(lambda t: t.update({"stem.0.weight": torch.zeros(1, 1, 3, 3)})),
        "CHECKPOINT_DAMAGED",
    ),
    "a shape that would broadcast": (
        tensors(lambda t: t.update({"alpha.normal.ops": torch.zeros(1)})),
        "CHECKPOINT_DAMAGED",
    ),
    "another type": (
        tensors(lambda t: t.update({"stem.0.weight": t["stem.0.weight"].double()})),
        "CHECKPOINT_DAMAGED",
    ),
    "NaN": (tensors(nan), "CHECKPOINT_DAMAGED"),
    "infinity": (tensors(infinite), "CHECKPOINT_DAMAGED"),
    "an edge without candidates": (tensors(dead_edge), "CHECKPOINT_DAMAGED"),
    "no JSON": (text(b"{"), "CHECKPOINT_DAMAGED"),
    "no UTF-8": (text(b"\xff\xfe{}"), "CHECKPOINT_DAMAGED"),
    "JSON that is no object": (text(b"[1]"), "CHECKPOINT_FORMAT"),
    "another format": (card(lambda c: c.update(format_version=2)), "CHECKPOINT_FORMAT"),
    "no format": (card(lambda c: c.pop("format_version")), "CHECKPOINT_FORMAT"),
    "an unknown key": (card(lambda c: c.update(colour="red")), "CHECKPOINT_DAMAGED"),
    "a key missing": (card(lambda c: c.pop("space")), "CHECKPOINT_DAMAGED"),
    "a value of another type": (card(lambda c: c.update(name=3)), "CHECKPOINT_DAMAGED"),
    "a space out of bounds": (card(lambda c: c["space"].update(nodes=99)), "CHECKPOINT_DAMAGED"),
    "options out of bounds": (card(lambda c: c["defaults"].update(steps=-1)), "CHECKPOINT_DAMAGED"),
    "an input that does not fit": (
        card(lambda c: c["input"].update(channels=3)),
        "CHECKPOINT_DAMAGED",
    ),
    "another architecture": (card(lambda c: c["space"].update(nodes=3)), "CHECKPOINT_DAMAGED"),
    "fewer operations": (card(lambda c: c["space"]["ops"].pop()), "CHECKPOINT_DAMAGED"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage(folder: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert caught.value.reason == reason
    assert str(folder) in str(caught.value)


def test_there_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "nothing")
    assert caught.value.reason == "CHECKPOINT_MISSING"


def test_an_unknown_operation(folder: Path) -> None:
    card(lambda values: values["space"].update(ops=["skip_connect", "conv_9x9"]))(folder)
    with pytest.raises(UnknownName) as caught:
        load_checkpoint(folder)
    assert (caught.value.reason, caught.value.name) == ("UNKNOWN_OP", "conv_9x9")
    assert "conv_3x3" in caught.value.known


def test_operations_of_ones_own(folder: Path) -> None:
    """An extension's operation is a value in the mapping that is handed in."""
    card(
        lambda values: values["space"].update(
            ops=["mine" if name == "conv_3x3" else name for name in values["space"]["ops"]]
        )
    )(folder)
    checkpoint: Checkpoint = load_checkpoint(folder, ops={**OPS, "mine": OPS["conv_3x3"]})
    assert "mine" in checkpoint.card.ops


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_written_file_obeys_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    path = tmp_path / "file"
    before = os.umask(mask)
    try:
        write_atomic(path, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
