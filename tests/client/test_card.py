"""Cards of models and checkpoints: the front matter of model hubs, and text that stays text."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from metanas.checkpoint import load_checkpoint
from metanas.export.variants import convert
from metanas.spec.card import card_markdown
from metanas.spec.variant import Variant
from metanas_client import Client
from metanas_client.__main__ import main
from metanas_client.onnx.model_file import ModelFile
from metanas_client.publish.card import model_card
from tests.client.conftest import ROOT


def front_matter(text: str) -> dict[str, Any]:
    """The fields between the two lines of three dashes at the top."""
    begin, fields, _ = text.split("---\n", 2)
    assert begin == ""
    read: dict[str, Any] = yaml.safe_load(fields)
    return read


def test_the_card_of_a_file_has_its_provenance(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "README.md"
    assert main(["models", "card", str(model_file), "--name=shapes", f"--out={out}"]) == 0
    text = out.read_text(encoding="utf-8")
    fields = front_matter(text)
    assert (fields["library_name"], fields["pipeline_tag"]) == ("onnx", "image-classification")
    assert "model-index" not in fields
    assert "\n# shapes\n" in text
    assert "| checkpoint | tiny |" in text
    capsys.readouterr()
    assert main(["models", "card", str(model_file), "--name=shapes"]) == 0
    assert capsys.readouterr().out == text
    assert main(["models", "card", str(model_file), f"--out={out}"]) == 2


def test_the_card_of_a_model_of_a_server_has_its_estimate(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(server) as client:
        model = client.adapt(folder, seed=41).result(120)
    capsys.readouterr()
    assert main(["models", "card", model.name, f"--server={server}"]) == 0
    text = capsys.readouterr().out
    [index] = front_matter(text)["model-index"]
    assert model.report.leave_one_out is not None
    [metric] = index["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(model.report.leave_one_out.accuracy, abs=1e-4)
    assert "| accuracy on new images |" in text


def test_labels_are_text_in_a_card(model_file: Path) -> None:
    model = ModelFile.load(model_file)
    model.labels = ("<script>", "a|b", "[x](y)")
    text = model_card("x", model, None)
    assert "\\<script\\>, a\\|b, \\[x\\](y)" in text
    assert "<script>" not in text


def test_the_card_of_a_fixed_input_names_its_size(model_file: Path) -> None:
    fixed = convert(model_file.read_bytes(), Variant(height=24, width=30))
    text = model_card("x", ModelFile(fixed), None)
    assert "one image of 24 rows and 30 columns" in text
    assert '.convert("L").resize((30, 24)))' in text


def test_cards_of_checkpoints_have_front_matter(checkpoints: Path) -> None:
    pages = [path.read_text("utf-8") for path in ROOT.glob("meta_checkpoints/*/README.md")]
    pages.append(card_markdown(load_checkpoint(checkpoints / "tiny").card))
    assert len(pages) >= 4
    for page in pages:
        fields = front_matter(page)
        assert (fields["library_name"], fields["pipeline_tag"]) == (
            "metanas",
            "image-classification",
        )
        assert "few-shot" in fields["tags"]
