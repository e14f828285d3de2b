"""The studio's API over HTTP: the same engine, limits and callers as over gRPC."""

import hashlib
import http.client
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import onnx
import pytest
from starlette.routing import Route

from metanas_server.callers.access import Callers
from metanas_server.studio.engine import StudioEngine
from metanas_server.studio.routes import RUNTIME, STATIC, make_app
from tests.server.calls import images, spec
from tests.server.processes import run
from tests.server.studio_calls import Studio, multipart, png, studio_of, support

FIRST_LOAD_BYTES = 300_000


@pytest.fixture(scope="module")
def studio(checkpoints: Path, data: Path) -> Iterator[Studio]:
    with studio_of(checkpoints, data, "--max-image-bytes=5000", "--max-shots=5") as running:
        yield running


@pytest.fixture(scope="module")
def made(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a model."""
    created = studio.create(support(tmp_path_factory.mktemp("images")))
    assert created.status == 201, created.body
    id_ = created.json["name"].partition("/")[2]
    assert studio.follow(str(id_))[-1][1]["state"] == "ADAPTATION_STATE_SUCCEEDED"
    return str(id_)


def test_events_show_progress_and_end_with_the_adaptation(studio: Studio, made: str) -> None:
    events = studio.follow(made)
    stages = [data["stage"] for name, data in events if name == "progress"]
    assert stages[0] == "decode"
    assert stages[-1] == "check"
    assert events[-1][0] == "adaptation"
    assert events[-1][1]["model"] == f"models/{made}"
    later = studio.call(f"/api/adaptations/{made}/events?after={len(stages)}").body
    assert b"event: progress" not in later


def test_a_damaged_file_is_not_downloaded(studio: Studio, data: Path, tmp_path: Path) -> None:
    created = studio.create(support(tmp_path), seed=2).json
    *_, (_, ended) = studio.follow(created["name"].partition("/")[2])
    digest = studio.call(f"/api/{ended['model']}").json["sha256"]
    (file,) = data.rglob(digest)
    file.write_bytes(bytes(file.stat().st_size))
    for name in ("model.onnx", "model.zip"):
        answer = studio.call(f"/api/{ended['model']}/{name}")
        assert (answer.status, answer.json["reason"]) == (500, "ARTEFACT_DAMAGED")


def test_the_downloaded_file_is_that_of_the_model(studio: Studio, made: str) -> None:
    model = studio.call(f"/api/models/{made}").json
    onnx = studio.call(f"/api/models/{made}/model.onnx").body
    assert hashlib.sha256(onnx).hexdigest() == model["sha256"]
    over_grpc = b"".join(chunk.data for chunk in studio.server.api.download(f"models/{made}"))
    assert onnx == over_grpc
    assert model["labels"] == ["a", "b"]
    assert 0 <= model["report"]["accuracy"] <= 1
    assert set(model["genotype"]) == {"normal", "reduce"}


def test_a_model_of_grpc_is_shown(studio: Studio) -> None:
    answer = studio.server.api.adapt(spec(), images())
    assert studio.call(f"/api/{answer.model.name}").json["sha256"] == answer.model.sha256


def test_the_archive_runs_by_itself(studio: Studio, made: str, tmp_path: Path) -> None:
    first, second = (studio.call(f"/api/models/{made}/model.zip").body for _ in range(2))
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "model"
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "@@" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    (folder / "x.png").write_bytes(png(0, tmp_path))
    command = [sys.executable, "predict.py", "x.png"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(("x.png: a (", "x.png: b ("))


def test_limits_and_checkpoints_are_told(studio: Studio) -> None:
    told = studio.call("/api/server").json
    assert told["limits"]["max_shots"] == 5
    assert [each["name"] for each in told["checkpoints"]] == [
        "checkpoints/colour",
        "checkpoints/grey",
    ]
    assert told["chooses_checkpoint"] is False


def test_unreadable_images_are_named(studio: Studio, tmp_path: Path) -> None:
    broken = [*support(tmp_path), ("a", b"no image")]
    created = studio.create(broken)
    ended = studio.follow(created.json["name"].partition("/")[2])[-1][1]
    assert ended["state"] == "ADAPTATION_STATE_FAILED"
    assert [each["field"] for each in ended["failure"]["violations"]] == ["examples[4].image"]


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"labels_only": True}, 400, "LABELS_MISSING"),
        ({"checkpoint": "nothing"}, 404, "UNKNOWN_CHECKPOINT"),
        ({"options": {"steps": 10_000}}, 400, "OPTION_OUT_OF_RANGE"),
        ({"options": {"stepz": 1}}, 400, "REQUEST_MALFORMED"),
        ({"seed": "x"}, 400, "REQUEST_MALFORMED"),
    ],
)
def test_wrong_specs_are_refused(
    studio: Studio, tmp_path: Path, change: dict[str, object], status: int, reason: str
) -> None:
    some = support(tmp_path)
    labels_only = change.pop("labels_only", False)
    fields = {"checkpoint": "grey", **change, "labels": [label for label, _ in some]}
    sent = [] if labels_only else [("images", data) for _, data in some]
    answer = studio.post(multipart([("spec", json.dumps(fields).encode()), *sent]))
    assert answer.status == status
    reasons = {answer.json["reason"], *(each["reason"] for each in answer.json["violations"])}
    assert reason in reasons


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "NO_SPEC"),
        ([("images", b"x")], "NO_SPEC"),
        ([("spec", b"{")], "REQUEST_MALFORMED"),
        ([("spec", b"[" * 10_000)], "REQUEST_MALFORMED"),
        ([("spec", b"[]")], "LABELS_MISSING"),
        ([("spec", b'{"labels": [1]}')], "LABELS_MISSING"),
        ([("spec", b'{"labels": [], "checkpoint": "grey"}'), ("images", b"x")], "LABELS_MISSING"),
        ([("spec", b'{"labels": ["a"], "checkpoint": "grey"}'), ("other", b"x")], "LABELS_MISSING"),
        ([("spec", b"x" * 2_000_000)], "IMAGE_TOO_LARGE"),
    ],
)
def test_wrong_uploads_are_refused(
    studio: Studio, parts: list[tuple[str, bytes]], reason: str
) -> None:
    answer = studio.post(multipart(parts))
    status = 413 if reason == "IMAGE_TOO_LARGE" else 400
    assert (answer.status, answer.json["violations"][0]["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"{}", "multipart/form-data"),
        (b"rubbish", "multipart/form-data; boundary=studio"),
        (multipart([("spec", b"{}")])[:-20], "multipart/form-data; boundary=studio"),
    ],
)
def test_bodies_that_are_no_upload_are_refused(studio: Studio, body: bytes, kind: str) -> None:
    answer = studio.post(body, kind)
    assert (answer.status, answer.json["violations"][0]["reason"]) == (400, "UPLOAD_MALFORMED")


def test_limits_hold(studio: Studio, tmp_path: Path) -> None:
    large = studio.create([("a", b"x" * 6000), ("b", b"x")])
    assert large.json["violations"][0]["reason"] == "IMAGE_TOO_LARGE"
    many = studio.create([("a", png(i, tmp_path)) for i in range(6)])
    assert many.json["violations"][0]["reason"] == "TOO_MANY_SHOTS"


def test_variants_of_the_file(studio: Studio, made: str) -> None:
    path = f"/api/models/{made}/model.onnx"
    stored, half, fixed = (
        studio.call(path + query).body for query in ("", "?precision=fp16", "?height=12&width=12")
    )
    assert len(half) < len(stored)
    assert onnx.load_from_string(fixed).graph.input[0].type.tensor_type.shape.dim[1].dim_value == 12
    cases = {
        "?precision=int8": "VARIANT_REFUSED",  # it needs the support set
        "?precision=int9": "OPTION_OUT_OF_RANGE",
        "?height=12": "OPTION_OUT_OF_RANGE",
        "?height=x&width=1": "OPTION_OUT_OF_RANGE",
        "?opset=9": "OPTION_OUT_OF_RANGE",
    }
    for query, reason in cases.items():
        refused = studio.call(path + query)
        assert (refused.status, refused.json["violations"][0]["reason"]) == (400, reason)
    text = studio.call(path + "?opset=x").json["message"]
    assert text == "opset: must be a whole number"


@pytest.mark.parametrize(
    "path",
    [
        "adaptations/x",
        "adaptations/x/events",
        "models/x",
        "models/x/model.onnx",
        "models/x/model.zip",
    ],
)
def test_unknown_resources(studio: Studio, path: str) -> None:
    answer = studio.call(f"/api/{path}")
    assert answer.status == 404
    assert answer.json["reason"].startswith("UNKNOWN_")


def test_an_adaptation_is_cancelled(studio: Studio, tmp_path: Path) -> None:
    created = studio.create(support(tmp_path), options={"steps": 500, "tuning_steps": 500})
    id_ = created.json["name"].partition("/")[2]
    assert studio.call(f"/api/adaptations/{id_}/cancel", method="POST").status == 200
    assert studio.follow(id_)[-1][1]["state"] == "ADAPTATION_STATE_CANCELLED"


def test_the_description_of_the_api_names_its_paths() -> None:
    description = json.loads((STATIC / "openapi.json").read_text(encoding="utf-8"))
    routes = [
        each
        for each in make_app(cast("StudioEngine", None), Callers(None), None).routes
        if isinstance(each, Route)
    ]
    listed = {
        each.path: {method.lower() for method in (each.methods or ()) if method != "HEAD"}
        for each in routes
        if each.path.startswith("/api/")
    }
    described = {path: set(item) - {"parameters"} for path, item in description["paths"].items()}
    assert described == listed


def test_references_in_the_description_of_the_api_lead_somewhere() -> None:
    description = json.loads((STATIC / "openapi.json").read_text(encoding="utf-8"))
    references = {part.split('"')[0] for part in json.dumps(description).split('"$ref": "#/')[1:]}
    assert references
    for reference in references:
        found = description
        for name in reference.split("/"):
            found = found[name]


def test_the_first_load_is_small() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file() and RUNTIME not in path.parts]
    assert sum(path.stat().st_size for path in files) <= FIRST_LOAD_BYTES


def test_a_server_stops_while_the_studio_is_watched(checkpoints: Path, tmp_path: Path) -> None:
    flags = ("--grace=0",)
    with studio_of(checkpoints, tmp_path / "data", *flags) as running:
        created = running.create(support(tmp_path), options={"steps": 500, "tuning_steps": 500})
        id_ = created.json["name"].partition("/")[2]
        connection = http.client.HTTPConnection(running.address, timeout=60)
        connection.request("GET", f"/api/adaptations/{id_}/events")
        answer = connection.getresponse()
        assert answer.readline().startswith(b"event: adaptation")
        running.server.process.terminate()
        assert b"SERVER_STOPPING" in answer.read()
        connection.close()
        assert running.server.process.wait(timeout=60) == 0


def test_a_studio_needs_an_address_of_its_own(studio: Studio, tmp_path: Path) -> None:
    taken = run(tmp_path, tmp_path / "data", f"--studio={studio.address}")
    outside = run(tmp_path, tmp_path / "data", "--studio=0.0.0.0:0")
    assert (taken.returncode, outside.returncode) == (2, 2)
    assert "LISTEN_INSECURE" in outside.stderr
