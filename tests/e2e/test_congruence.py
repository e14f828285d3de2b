"""The same answer, however it is asked: in process, through a server, alone, among a thousand."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from metanas.adaptation.job import AdaptedModel
from metanas.adaptation.scheduler import adapt
from metanas.adaptation.universal import load_universal
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.export.onnx_model import Classifier, Encoder, to_onnx
from metanas.images.decode import decode
from metanas.images.support_set import preprocessing_for, support_set
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.spec.card import read_card
from metanas.spec.examples import Example, Limits
from metanas.spec.options import AdaptConfig
from metanas.spec.universal import (
    DESCRIPTION,
    UNIVERSAL_FILE,
    Branch,
    Costs,
    Universal,
    UniversalConfig,
    universal_json,
)
from metanas.supernet.discrete import freeze_statistics, from_supernet
from metanas.util.work import whole
from metanas_client import Client, InvalidInput, Model, State
from metanas_client.__main__ import main
from metanas_client.onnx.images import load_image
from tests.e2e.running import DIGITS, Running, running

Pixels = NDArray[np.uint8]
OPTIONS = AdaptConfig(steps=4, tuning_steps=2)
SLOW = AdaptConfig(steps=40, tuning_steps=0)  # long enough to be interrupted
SIZES = [(2, 2), (3, 50), (8, 8), (15, 16), (16, 16), (17, 31), (32, 32), (100, 37), (224, 224)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums over several threads need not be added in the same order as the server's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(checkpoints, tmp_path_factory.mktemp("served") / "data") as service:
        yield service


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with server.client() as connected:
        yield connected


def digits(split: str = "support") -> dict[str, list[bytes]]:
    """Class → encoded files, in the order in which the client reads a folder."""
    return {
        folder.name: [path.read_bytes() for path in sorted(folder.iterdir())]
        for folder in sorted((DIGITS / split).iterdir())
    }


def few() -> dict[str, list[bytes]]:
    """Ten images, for what takes many steps."""
    return {label: images[:1] for label, images in digits().items()}


def here(
    checkpoint: Path, support: dict[str, list[bytes]], seed: int = 0, options: AdaptConfig = OPTIONS
) -> AdaptedModel:
    """The adaptation in this process."""
    examples = [Example(label, image) for label, images in support.items() for image in images]
    return adapt(load_checkpoint(checkpoint), examples, options=options, seed=seed)


def there(client: Client, support: object, checkpoint: str = "grey", seed: int = 0) -> Model:
    """The adaptation through the server."""
    chosen = OPTIONS.to_dict()
    return client.adapt(support, checkpoint=checkpoint, options=chosen, seed=seed).result(120)  # type: ignore[arg-type]


def logits(model: bytes, images: Pixels) -> NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(["logits"], {"images": images})[0]
    return result


@pytest.mark.parametrize("checkpoint", ["grey", "colour", "photo"])
def test_in_process_and_through_the_server(
    checkpoints: Path, client: Client, checkpoint: str
) -> None:
    own = here(checkpoints / checkpoint, digits())
    served = there(client, DIGITS / "support", checkpoint)
    assert json.dumps(served.genotype) == json.dumps(json.loads(own.genotype.to_json()))
    assert served.labels == own.labels == tuple("0123456789")
    assert served.info.sha256 == own.sha256
    assert served.onnx == own.onnx
    assert own.report.leave_one_out is not None
    assert replace(served.report, seconds={}) == replace(own.report, seconds={})
    assert list(served.report.seconds) == list(own.report.seconds)


def test_the_universal_space_is_the_same_in_process_and_through_the_server(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoints, tmp_path / "all")
    names = ("grey", "colour")
    universal = Universal(
        config=UniversalConfig(
            branches={name: Branch(checkpoint=name) for name in names},
            defaults=AdaptConfig(steps=0, tuning_steps=0, head="ridge"),
        ),
        checkpoints={name: read_card(checkpoints / name).digest for name in names},
        costs={name: Costs(macs=1, parameters=1) for name in names},
        weights=((0.0,) * DESCRIPTION,) * 2,
        bias=(0.0, 1.0),
        scale=8.0,
    )
    (tmp_path / "all" / UNIVERSAL_FILE).write_text(universal_json(universal), encoding="utf-8")
    space = load_universal(tmp_path / "all")
    examples = [Example(label, image) for label, images in few().items() for image in images]
    own = adapt(space, examples, options={"steps": 4})
    with (
        running(tmp_path / "all", tmp_path / "data") as service,
        service.client() as client,
    ):
        served = client.adapt(few(), options={"steps": 4}).result(60)
        command = ["adapt", str(DIGITS / "support"), "--server", service.address]
        assert main([*command, "--out", str(tmp_path / "model.onnx")]) == 0
    assert served.onnx == own.onnx
    assert served.report.architecture == own.report.architecture
    assert set(own.report.architecture) == set(names)
    assert served.info.checkpoint == "checkpoints/universal"
    assert "checkpoint\tuniversal: colour 73 %, grey 27 %" in capsys.readouterr().out


def test_without_a_prior_a_checkpoint_has_to_be_named(client: Client) -> None:
    with pytest.raises(InvalidInput, match="name one of colour, grey, photo;") as caught:
        client.adapt(few())
    assert caught.value.reason == "CHECKPOINT_AMBIGUOUS"


def test_several_looks_through_the_server(checkpoints: Path, client: Client) -> None:
    options = {"shift_pixels": 2}
    served = client.adapt(few(), checkpoint="colour", options=options).result(60)
    defaults = load_checkpoint(checkpoints / "colour").card.defaults
    own = here(checkpoints / "colour", few(), options=defaults.replace(options))
    assert served.onnx == own.onnx
    assert served.report.macs == own.report.macs
    assert json.loads(metadata(served.onnx)["metanas.options"])["shift_pixels"] == 2
    for checkpoint, pixels, why in (("photo", 1, "trunk"), ("grey", 4, "quarter")):
        with pytest.raises(InvalidInput, match=why) as caught:
            client.adapt(few(), checkpoint=checkpoint, options={"shift_pixels": pixels})
        assert [each.field for each in caught.value.violations] == ["options.shift_pixels"]


def test_twice_the_same_and_another_with_another_seed(client: Client) -> None:
    first, second = (there(client, DIGITS / "support", seed=7) for _ in range(2))
    assert first.name != second.name
    assert first.onnx == second.onnx
    assert first.onnx != there(client, DIGITS / "support", seed=8).onnx


def test_the_order_of_the_classes_is_that_of_the_caller(client: Client) -> None:
    support = dict(reversed(digits().items()))
    model = there(client, support)
    assert model.labels == tuple("9876543210")
    assert model.labels == tuple(json.loads(metadata(model.onnx)["metanas.labels"]))


def metadata(model: bytes) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load_model_from_string(model).metadata_props}


def test_files_and_their_pixels_give_the_same_model(client: Client) -> None:
    """Losslessly encoded images and the arrays that they decode to differ in nothing."""
    arrays = {
        label: [decode(image, channels=1, limits=Limits()) for image in images]
        for label, images in digits().items()
    }
    assert there(client, arrays).onnx == there(client, digits()).onnx


def test_classes_may_have_unequal_shots(checkpoints: Path, client: Client) -> None:
    uneven = {label: images[: 1 + int(label) % 5] for label, images in digits().items()}
    served = there(client, uneven)
    assert served.report.shots == (1, 2, 3, 4, 5, 1, 2, 3, 4, 5)
    assert served.onnx == here(checkpoints / "grey", uneven).onnx


def test_a_query_does_not_see_the_others(client: Client) -> None:
    model = there(client, DIGITS / "support").onnx
    queries = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 1), dtype=np.uint8)
    together = logits(model, queries)
    for index in (0, 1, 500, 999):
        alone = logits(model, queries[index : index + 1])
        pair = logits(model, queries[[index, 3]])
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-5)
        np.testing.assert_allclose(pair[0], together[index], rtol=0, atol=1e-5)


def test_model_predict_is_what_the_file_says(client: Client) -> None:
    model = there(client, DIGITS / "support")
    files = [image for images in digits("query").values() for image in images[:2]]
    pixels = np.stack([decode(image, channels=1, limits=Limits()) for image in files])
    expected = [model.labels[i] for i in logits(model.onnx, pixels).argmax(1)]
    assert [prediction.label for prediction in model.predict(files)] == expected


def test_client_and_server_read_images_alike() -> None:
    for images in digits("query").values():
        for image in images:
            for channels in (1, 3):
                own = decode(image, channels=channels, limits=Limits())
                np.testing.assert_array_equal(load_image(image, channels), own)


@cache
def classifier(folder: Path, channels: int) -> tuple[Checkpoint, Classifier]:
    """A network with its statistics frozen on the digits, in torch."""
    checkpoint = load_checkpoint(folder)
    labelled = [
        (decode(image, channels=channels, limits=Limits()), label)
        for label, images in digits().items()
        for image in images
    ]
    images, labels = [image for image, _ in labelled], [label for _, label in labelled]
    preprocess = preprocessing_for(images, checkpoint.card.input)
    support = support_set(images, labels, preprocess)
    genotype = checkpoint.meta_genotype
    network = from_supernet(checkpoint.card.space, checkpoint.params, genotype, checkpoint.ops)
    with torch.no_grad():
        whole(freeze_statistics(network, support.images, len(images)))
        features = network(support.images)
        scale = torch.tensor(0.1)
        head = PrototypeHead().linear(features, membership(support.labels, support.ways), scale)
    return checkpoint, Classifier((Encoder(preprocess, network),), *head, scale)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "channels"), [("grey", 1), ("colour", 3)])
def test_queries_of_every_size_are_resized_as_in_torch(
    checkpoints: Path, name: str, channels: int, size: tuple[int, int]
) -> None:
    checkpoint, network = classifier(checkpoints / name, channels)
    model = to_onnx(network, checkpoint.ops, {}).SerializeToString()
    query = np.random.default_rng(0).integers(0, 256, (2, *size, channels), dtype=np.uint8)
    with torch.no_grad():
        inputs = torch.cat([network.encoders[0].preprocess(image) for image in query])
        expected = network.logits([inputs]).numpy()
    np.testing.assert_allclose(logits(model, query), expected, rtol=0, atol=1e-4)


def test_finished_adaptations_survive_a_restart(checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(checkpoints, data) as service, service.client() as before:
        handle = before.adapt(DIGITS / "support", checkpoint="grey", request_id="restart")
        model = handle.result(120)
        seen = [(p.sequence, p.stage, p.step) for p in handle.progress()]
    with running(checkpoints, data) as service, service.client() as after:
        again = after.adaptation(handle.name)
        assert again.info().state is State.SUCCEEDED
        assert [(p.sequence, p.stage, p.step) for p in again.progress()] == seen
        assert again.result(120).onnx == model.onnx
        assert [info.name for info in after.models()] == [model.name]
        same = after.adapt(DIGITS / "support", checkpoint="grey", request_id="restart")
        assert same.name == handle.name


def test_a_server_killed_in_the_middle_finishes_after_its_restart(
    checkpoints: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with running(checkpoints, data) as service, service.client() as before:
        handle = before.adapt(few(), checkpoint="grey", seed=3, options=SLOW.to_dict())
        for _ in islice(handle.progress(), 5):
            pass
        service.kill()
    with running(checkpoints, data) as service, service.client() as after:
        model = after.adaptation(handle.name).result(240)
    assert model.onnx == here(checkpoints / "grey", few(), seed=3, options=SLOW).onnx


def test_a_killed_worker_costs_an_attempt_and_not_the_job(
    server: Running, checkpoints: Path, client: Client
) -> None:
    handle = client.adapt(few(), checkpoint="grey", seed=4, options=SLOW.to_dict())
    attempts = set()
    for number, progress in enumerate(handle.progress()):
        attempts.add(progress.attempt)
        if number == 5:
            server.kill_workers()
    assert attempts == {1, 2}
    own = here(checkpoints / "grey", few(), seed=4, options=SLOW)
    assert handle.result(240).onnx == own.onnx


def test_a_cancelled_adaptation_leaves_nothing(client: Client) -> None:
    models = [info.name for info in client.models()]
    handle = client.adapt(few(), checkpoint="grey", options=SLOW.to_dict())
    for _ in islice(handle.progress(), 5):
        pass
    handle.cancel()
    stages = [progress.stage for progress in handle.progress()]
    assert handle.info().state is State.CANCELLED
    assert "export" not in stages
    assert [info.name for info in client.models()] == models


def test_photos_do_not_make_the_file_large(client: Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 1200, 900, 3), dtype=np.uint8)
    model = there(client, {"a": noise, "b": 255 - noise}, "colour")
    assert len(model.onnx) < 100_000
    assert json.loads(metadata(model.onnx)["metanas.conformance"])["shape"][2] == 3
