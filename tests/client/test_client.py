"""The SDK against a real server."""

import hashlib
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from metanas_client import (
    AdaptationCancelled,
    AsyncClient,
    Client,
    ClientError,
    InvalidInput,
    NotFound,
    State,
    TimedOut,
    Unavailable,
    Variant,
)
from metanas_client.onnx.model_file import ModelFile
from tests.client.conftest import ENVIRONMENT, class_folders, running_server
from tests.client.proxy import cutting

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 1), dtype=np.uint8)
SUPPORT: dict[str, Iterable[object]] = {"a": PIXELS[:2], "b": PIXELS[2:4], "c": list(PIXELS[4:])}


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server) as opened:
        yield opened


def test_a_folder_becomes_a_model(client: Client, folder: Path, tmp_path: Path) -> None:
    adaptation = client.adapt(folder, seed=3, options={"steps": 1})
    steps = list(adaptation.progress())
    assert [step.sequence for step in steps] == list(range(1, len(steps) + 1))
    assert {"adapt", "export"} <= {step.stage for step in steps}
    model = adaptation.result()
    assert model.labels == adaptation.labels == ("class0", "class1", "class2")
    assert hashlib.sha256(model.onnx).hexdigest() == model.info.sha256
    assert model.save(tmp_path / "m.onnx").read_bytes() == model.onnx
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (model.report.seed, set(model.genotype)) == (3, {"normal", "reduce"})
    found = model.predict([folder / "class0" / "0.png", PIXELS[0], PIXELS[1] / 255])
    assert [prediction.label in model.labels for prediction in found] == [True] * 3
    assert adaptation.info().state is State.SUCCEEDED


def test_a_variant_of_a_model(client: Client, folder: Path) -> None:
    model = client.adapt(folder, options={"steps": 0}).result()
    variant = Variant(precision="fp16", height=20, width=24, opset=15)
    made = client.model(model.name, variant=variant)
    assert made.info.sha256 == hashlib.sha256(made.onnx).hexdigest() != model.info.sha256
    assert len(made.onnx) == made.info.size
    assert client.model(model.name, variant=Variant()).onnx == model.onnx
    image = PIXELS.reshape(-1)[:480].reshape(20, 24)
    mine, theirs = made.predict([image])[0], model.predict([image])[0]
    assert mine.confidence == pytest.approx(theirs.confidence, abs=0.05)
    for wrong in (Variant(opset=12), Variant(height=3), Variant(height=2**40, width=1)):
        with pytest.raises(InvalidInput) as caught:
            client.model(model.name, variant=wrong)
        assert caught.value.reason == "OPTION_OUT_OF_RANGE"


def test_every_form_of_the_same_support_set_gives_the_same_model(
    client: Client, folder: Path
) -> None:
    mapping = {
        f"class{label}": [folder / f"class{label}" / f"{image}.png" for image in range(2)]
        for label in range(3)
    }
    pairs = [(label, path.read_bytes()) for label, paths in mapping.items() for path in paths]
    made = [client.adapt(support).result() for support in (folder, mapping, pairs)]
    assert len({model.info.sha256 for model in made}) == 1


def test_floats_are_taken_too(client: Client) -> None:
    floats = {"a": PIXELS[:2] / np.float32(255), "b": PIXELS[2:4] / 255, "c": [PIXELS[4] / 255]}
    assert client.adapt(floats).result().labels == ("a", "b", "c")


def test_a_handle_can_be_taken_up_again(client: Client, server: str) -> None:
    name = client.adapt(SUPPORT).name
    with Client(server) as other:
        handle = other.adaptation(name.rpartition("/")[2])
        first = [step.sequence for step in handle.progress()]
        assert first
        assert [step.sequence for step in handle.progress(after=2)] == first[2:]
        handle.result()
        handle.delete()
        with pytest.raises(NotFound):
            handle.info()


def test_adaptations_are_listed_page_by_page(client: Client) -> None:
    names = [client.adapt(SUPPORT, options={"steps": 0}).name for _ in range(3)]
    listed = [info.name for info in client.adaptations(page_size=2)]
    assert listed[:3] == names[::-1]
    assert listed == [info.name for info in client.adaptations()]


def test_a_request_id_never_costs_the_work_twice(client: Client) -> None:
    mine = str(uuid.uuid4())
    one = client.adapt(SUPPORT, request_id=mine)
    other = client.adapt(SUPPORT, request_id=mine)
    assert one.name == other.name
    with pytest.raises(InvalidInput) as caught:
        client.adapt(SUPPORT, request_id=mine, seed=1)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert one.result().onnx == other.result().onnx


def test_cancelling_stops_the_work(client: Client) -> None:
    adaptation = client.adapt(SUPPORT, options={"steps": 500, "tuning_steps": 500})
    next(adaptation.progress())
    adaptation.cancel()
    with pytest.raises(AdaptationCancelled):
        adaptation.result()
    assert adaptation.info().state is State.CANCELLED
    assert adaptation.cancel().state is State.CANCELLED
    assert client.adapt(SUPPORT, options={"steps": 1}).result().labels


def test_waiting_may_have_an_end(client: Client) -> None:
    adaptation = client.adapt(SUPPORT, options={"steps": 500, "tuning_steps": 500})
    with pytest.raises(TimedOut):
        adaptation.result(timeout=0.01)
    assert not adaptation.info().state.final
    adaptation.cancel()


def test_models_are_listed_page_by_page_and_deleted(client: Client) -> None:
    made = [client.adapt(SUPPORT, seed=seed, options={"steps": 0}).result() for seed in range(3)]
    listed = [model.name for model in client.models(page_size=1)]
    assert [model.name for model in reversed(made)] == listed[:3]
    assert [model.name for model in client.models()] == listed
    again = client.model(made[0].name)
    assert (again.onnx, again.info) == (made[0].onnx, made[0].info)
    client.delete_model(made[0].name)
    for call in (client.model, client.delete_model):
        with pytest.raises(NotFound) as caught:
            call(made[0].name)
        assert caught.value.reason == "UNKNOWN_MODEL"


def test_checkpoints_tell_what_they_are(client: Client) -> None:
    (tiny,) = client.checkpoints()
    assert tiny == client.checkpoint("tiny") == client.checkpoint("checkpoints/tiny")
    assert (tiny.input.channels, tiny.input.size) == (1, 16)
    assert tiny.defaults["steps"] == 2
    assert tiny.limits.max_ways >= 2
    with pytest.raises(NotFound, match="tiny"):
        client.checkpoint("huge")


@pytest.mark.parametrize(
    ("support", "options", "reason"),
    [
        ({}, {}, "NO_EXAMPLES"),
        ({"a": PIXELS}, {}, "ONE_CLASS"),
        ({"a": PIXELS, "b": []}, {}, "CLASS_WITHOUT_EXAMPLES"),
        ({"a": PIXELS, "": PIXELS}, {}, "LABEL_EMPTY"),
        ({"a": PIXELS, "\udcff": PIXELS}, {}, "LABEL_NOT_UTF8"),
        ({"a": PIXELS, "b": [b"no image"]}, {}, "IMAGE_FORMAT"),
        ({"a": PIXELS, "b": np.full((1, 9, 9, 1), np.nan, np.float32)}, {}, "TENSOR_NOT_FINITE"),
        ({"a": PIXELS, "b": np.zeros((1, 9, 9, 2), np.uint8)}, {}, "TENSOR_CHANNELS"),
        ({"a": PIXELS, "b": np.zeros((1, 0, 9, 1), np.uint8)}, {}, "IMAGE_TOO_SMALL"),
        (SUPPORT, {"steps": 501}, "OPTION_OUT_OF_RANGE"),
        (SUPPORT, {"speed": 9}, "OPTION_UNKNOWN"),
    ],
)
def test_bad_input_is_refused_with_its_reason(
    client: Client, support: dict[str, object], options: dict[str, int], reason: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.adapt(support, options=options).result()
    assert caught.value.reason == reason
    assert client.adapt(SUPPORT, options={"steps": 0}).result().labels


def test_too_small_an_image_is_refused_in_one_way(client: Client, model_file: Path) -> None:
    """As a support image by the server, and as a query by the file."""
    small = np.zeros((1, 9), np.uint8)
    with pytest.raises(InvalidInput) as there:
        client.adapt({"a": PIXELS, "b": [small]}).result()
    with pytest.raises(InvalidInput) as here:
        ModelFile.load(model_file).predict([small])
    [one], [other] = there.value.violations, here.value.violations
    assert (one.reason, one.message) == (other.reason, other.message)
    assert "each side needs at least 2" in one.message


def test_a_bad_file_of_a_folder_is_named(client: Client, tmp_path: Path) -> None:
    support = class_folders(tmp_path, 2, 2)
    bad = support / "class1" / "1.png"
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(InvalidInput) as caught:
        client.adapt(support).result()
    assert [violation.source for violation in caught.value.violations] == [str(bad)]
    assert str(bad) in str(caught.value)


def test_an_unknown_checkpoint_is_answered_with_those_that_there_are(client: Client) -> None:
    with pytest.raises(NotFound, match="tiny") as caught:
        client.adapt(SUPPORT, checkpoint="huge")
    assert caught.value.reason == "UNKNOWN_CHECKPOINT"


async def test_the_asynchronous_client_gives_the_same(server: str, client: Client) -> None:
    async with AsyncClient(server) as asynchronous:
        adaptation = await asynchronous.adapt(SUPPORT, seed=5)
        stages = [step.stage async for step in adaptation.progress()]
        model = await adaptation.result()
        names = [info.name async for info in asynchronous.models()]
        assert (await asynchronous.checkpoints())[0].name == "checkpoints/tiny"
    assert "adapt" in stages
    assert names[0] == model.name
    assert client.adapt(SUPPORT, seed=5).result().onnx == model.onnx


def test_nobody_there() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable) as caught:
        client.checkpoints()
    assert caught.value.address == "127.0.0.1:1"


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:port"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(InvalidInput):
        Client(address)


def test_a_closed_client_says_so(server: str) -> None:
    client = Client(server)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.checkpoints()


def test_an_iterator_may_be_left_early(client: Client) -> None:
    client.adapt(SUPPORT, options={"steps": 0}).result()
    for _ in client.models(page_size=1):
        break
    assert client.checkpoints()


def test_a_broken_download_goes_on_where_it_broke(client: Client, server: str) -> None:
    whole = client.adapt(SUPPORT, options={"steps": 0}).result()
    with cutting(server, [3000, 6000, 7000]) as (address, proxy), Client(address) as other:
        assert other.model(whole.name).onnx == whole.onnx
    assert proxy.connections > 1


@pytest.mark.slow
def test_broken_progress_loses_and_repeats_nothing(client: Client, server: str) -> None:
    name = client.adapt(SUPPORT, options={"steps": 60, "tuning_steps": 40}).name
    expected = [step.sequence for step in client.adaptation(name).progress()]
    with cutting(server, [2000, 3000]) as (address, proxy), Client(address) as other:
        handle = other.adaptation(name)
        assert [step.sequence for step in handle.progress()] == expected
    assert proxy.connections > 1
    assert len(expected) > 50


def test_an_upload_that_breaks_is_sent_again_but_done_once(client: Client, server: str) -> None:
    before = {info.name for info in client.models()}
    large = {
        "a": [np.zeros((400, 400, 1), np.uint8)] * 4,
        "b": [np.full((400, 400, 1), 255, np.uint8)] * 4,
    }
    with cutting(server, [0]) as (address, proxy), Client(address) as other:
        model = other.adapt(large, options={"steps": 0, "tuning_steps": 0}).result()
    assert proxy.connections > 1
    assert {info.name for info in client.models()} - before == {model.name}


def test_patience_ends(client: Client, server: str) -> None:
    whole = client.adapt(SUPPORT, options={"steps": 0}).result()
    with (
        cutting(server, [2000] * 50) as (address, _),
        Client(address, patience=0) as other,
        pytest.raises(ClientError),
    ):
        other.model(whole.name)


def test_a_client_that_is_never_closed_leaves_without_noise(server: str) -> None:
    code = f"from metanas_client import Client; print(len(Client({server!r}).checkpoints()))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.slow
def test_a_restart_of_the_server_is_waited_for(checkpoints: Path, tmp_path: Path) -> None:
    with running_server(checkpoints, tmp_path / "data") as address:
        client = Client(address, patience=250)
        adaptation = client.adapt(SUPPORT, options={"steps": 100})
        progress = adaptation.progress()
        next(progress)
    with running_server(checkpoints, tmp_path / "data", listen=address), client:
        rest = [step.sequence for step in progress]
        assert rest == sorted(set(rest))
        assert rest[0] == 2
        assert adaptation.result().labels == ("a", "b", "c")
