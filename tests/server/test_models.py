"""Models: what is known of them, their files in pieces, and that deleting one spares its twin."""

import hashlib
from pathlib import Path

import grpc
import pytest

from metanas.export.variants import convert
from metanas.spec.variant import Variant
from metanas_protos.v1.model_pb2 import ModelVariant
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest, ListModelsRequest
from metanas_server.api.service import CHUNK
from tests.server.calls import Api, images, refused, spec


@pytest.fixture(scope="module")
def model(api: Api) -> str:
    """The name of a model."""
    return api.end_of(api.create(spec(seed=1), images()).name).model


def test_a_download_is_checked_by_its_digest(api: Api, model: str) -> None:
    known = api.model(model)
    parts = api.download(model)
    whole = b"".join(part.data for part in parts)
    assert hashlib.sha256(whole).hexdigest() == known.sha256
    for part in (parts[0], parts[-1]):
        assert (part.sha256, part.size_bytes) == (known.sha256, known.size_bytes)
    assert all(len(part.data) <= CHUNK for part in parts)


def test_a_download_goes_on_from_any_offset(api: Api, model: str) -> None:
    whole = b"".join(part.data for part in api.download(model))
    for offset in (0, 1, len(whole) // 2, len(whole) - 1):
        parts = api.download(model, offset)
        assert parts[0].offset == offset
        assert b"".join(part.data for part in parts) == whole[offset:]
    (end,) = api.download(model, len(whole))
    assert (end.data, end.size_bytes) == (b"", len(whole))


def test_files_of_many_pieces(api: Api, data: Path) -> None:
    """A model of our tiny checkpoint fits into one piece: put a longer file in its place."""
    name = api.end_of(api.create(spec(seed=2), images()).name).model
    known = api.model(name)
    path = data / "artefacts" / known.sha256
    whole = path.read_bytes()
    path.write_bytes(whole[: known.size_bytes // 2])
    answer = refused(api.download, name)
    assert (answer.code, answer.reason) == (grpc.StatusCode.DATA_LOSS, "ARTEFACT_DAMAGED")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    assert refused(api.download, name).reason == "ARTEFACT_DAMAGED"
    path.unlink()
    assert refused(api.download, name).reason == "ARTEFACT_LOST"
    path.write_bytes(whole)
    assert b"".join(part.data for part in api.download(name)) == whole


def test_a_variant_is_converted_for_its_download(api: Api, model: str, data: Path) -> None:
    stored = b"".join(part.data for part in api.download(model))
    wanted = Variant(precision="fp16", height=30, width=20, opset=13)
    message = ModelVariant(precision="fp16", height=30, width=20, opset=13)
    parts = api.download(model, variant=message)
    whole = b"".join(part.data for part in parts)
    assert whole == convert(stored, wanted)
    for part in (parts[0], parts[-1]):
        assert part.sha256 == hashlib.sha256(whole).hexdigest()
        assert part.size_bytes == len(whole)
    assert api.model(model).size_bytes == len(stored)
    for offset in (1, len(whole) - 1, len(whole)):
        rest = api.download(model, offset, message)
        assert b"".join(part.data for part in rest) == whole[offset:]
    answer = refused(api.download, model, len(whole) + 1, message)
    assert answer.reason == "OFFSET_OUT_OF_RANGE"
    known = {path.name for path in (data / "artefacts").iterdir() if path.name != "quarantine"}
    listed = api.models.ListModels(ListModelsRequest(page_size=500)).models
    assert known == {each.sha256 for each in listed}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (ModelVariant(precision="fp8"), "variant.precision"),
        (ModelVariant(height=7), "variant.height"),
        (ModelVariant(height=2**31 - 1, width=2**31 - 1), "variant.height"),
        (ModelVariant(height=-7, width=-7), "variant.height"),
        (ModelVariant(opset=12), "variant.opset"),
    ],
)
def test_variants_that_do_not_exist(
    api: Api, model: str, message: ModelVariant, field: str
) -> None:
    answer = refused(api.download, model, 0, message)
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert (field, "OPTION_OUT_OF_RANGE") in answer.violations


@pytest.mark.parametrize("offset", [-1, 10**12])
def test_offsets_outside_of_the_file(api: Api, model: str, offset: int) -> None:
    answer = refused(api.download, model, offset)
    assert (answer.code, answer.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")


@pytest.mark.parametrize("name", ["", "models/", "models/none", "none", "adaptations/none"])
def test_names_of_no_model(api: Api, name: str) -> None:
    delete = api.models.DeleteModel
    for answer in (
        refused(api.model, name),
        refused(api.download, name),
        refused(delete, DeleteModelRequest(name=name)),
    ):
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


def test_deleting_a_model_spares_the_twin_with_the_same_bytes(api: Api, data: Path) -> None:
    first, second = (api.end_of(api.create(spec(seed=5), images()).name).model for _ in range(2))
    digest = api.model(first).sha256
    assert first != second
    assert api.model(second).sha256 == digest
    api.models.DeleteModel(DeleteModelRequest(name=first))
    assert refused(api.model, first).reason == "UNKNOWN_MODEL"
    assert api.download(second)[0].sha256 == digest
    api.models.DeleteModel(DeleteModelRequest(name=second))
    assert not (data / "artefacts" / digest).exists()


def test_lists_come_in_pages_the_latest_first(api: Api) -> None:
    made = [api.end_of(api.create(spec(seed=i), images()).name).model for i in range(3)]
    first = api.models.ListModels(ListModelsRequest(page_size=2))
    assert [each.name for each in first.models] == made[:0:-1]
    token = first.next_page_token
    second = api.models.ListModels(ListModelsRequest(page_size=1, page_token=token))
    assert [each.name for each in second.models] == made[:1]
    for wrong in ("?", "bm9uZQ==", "W10=", token[:-4]):
        answer = refused(api.models.ListModels, ListModelsRequest(page_token=wrong))
        assert answer.violations == [("page_token", "PAGE_TOKEN")]
    answer = refused(api.models.ListModels, ListModelsRequest(page_size=-1))
    assert answer.violations == [("page_size", "PAGE_SIZE")]


def test_support_sets_are_not_kept(api: Api, data: Path) -> None:
    listed = api.models.ListModels(ListModelsRequest(page_size=500)).models
    known = {each.sha256 for each in listed}
    assert {path.name for path in (data / "artefacts").iterdir()} == known
