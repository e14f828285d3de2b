"""Suggestions for misspelt names, and the types of arguments."""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from metanas_data.suggest import (
    did_you_mean,
    did_you_mean_file,
    existing_folder,
    nearest_or_all,
    whole_number,
)


def test_the_nearest_name_is_suggested(tmp_path: Path) -> None:
    assert did_you_mean("omniglt", ["photos", "omniglot"]) == " Did you mean omniglot?"
    assert did_you_mean("xyz", ["photos", "omniglot"]) == ""
    assert nearest_or_all("omniglt", ["photos", "omniglot"]) == " Did you mean omniglot?"
    assert nearest_or_all("xyz", ["photos", "omniglot"]) == " Known: photos, omniglot."
    (tmp_path / "model.onnx").touch()
    assert did_you_mean_file(tmp_path / "modle.onnx") == " Did you mean model.onnx?"
    assert did_you_mean_file(tmp_path / "none" / "x") == ""
    assert did_you_mean_file(tmp_path / "model.onnx") == ""


def test_a_file_in_place_of_its_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "universal.json"
    file.touch()
    assert existing_folder(str(tmp_path)) == tmp_path
    with pytest.raises(ArgumentTypeError, match="is a file; name its folder") as caught:
        existing_folder(str(file))
    assert str(caught.value).endswith(str(tmp_path))


def test_numbers_out_of_bounds_are_refused_with_the_bounds() -> None:
    assert whole_number(1, 20)("20") == 20
    for text in ("0", "21", "1.5", "x", ""):
        with pytest.raises(ArgumentTypeError, match="not a whole number from 1 to 20"):
            whole_number(1, 20)(text)
    with pytest.raises(ArgumentTypeError, match="-1 is not a whole number of at least 0"):
        whole_number(0)("-1")
