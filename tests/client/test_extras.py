"""Optional dependencies: two runtimes that overwrite each other are noticed."""

import sys
import warnings
from pathlib import Path

import pytest

from metanas_client.extras import RUNTIMES, warn_of_two_runtimes


def install(folder: Path, name: str) -> None:
    """Write the metadata of a distribution, as pip does."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


@pytest.mark.parametrize(("names", "expected"), [((), 0), (RUNTIMES[:1], 0), (RUNTIMES, 1)])
def test_two_runtimes_are_warned_of(
    names: tuple[str, ...], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        install(tmp_path, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_two_runtimes()
    assert len(caught) == expected
    assert all("onnx-gpu" in str(one.message) for one in caught)
