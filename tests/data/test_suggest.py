"""Suggestions for misspelt names."""

from pathlib import Path

from metanas_data.suggest import did_you_mean, did_you_mean_file, nearest_or_all


def test_the_nearest_name_is_suggested(tmp_path: Path) -> None:
    assert did_you_mean("omniglt", ["photos", "omniglot"]) == " Did you mean omniglot?"
    assert did_you_mean("xyz", ["photos", "omniglot"]) == ""
    assert nearest_or_all("omniglt", ["photos", "omniglot"]) == " Did you mean omniglot?"
    assert nearest_or_all("xyz", ["photos", "omniglot"]) == " Known: photos, omniglot."
    (tmp_path / "model.onnx").touch()
    assert did_you_mean_file(tmp_path / "modle.onnx") == " Did you mean model.onnx?"
    assert did_you_mean_file(tmp_path / "none" / "x") == ""
