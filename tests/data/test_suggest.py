"""Suggestions for misspelt names."""

from pathlib import Path

from metanas_data.suggest import did_you_mean, did_you_mean_file


def test_the_nearest_name_is_suggested(tmp_path: Path) -> None:
    assert did_you_mean("omniglt", ["photos", "omniglot"]) == " Did you mean omniglot?"
    assert did_you_mean("xyz", ["photos", "omniglot"]) == ""
    (tmp_path / "model.onnx").touch()
    assert did_you_mean_file(tmp_path / "modle.onnx") == " Did you mean model.onnx?"
    assert did_you_mean_file(tmp_path / "none" / "x") == ""
