"""Display of a model in a notebook."""

import sys
from pathlib import Path

import pytest

from metanas_client import Model


def test_a_model_shows_its_cells(model_file: Path) -> None:
    html = Model.load(model_file)._repr_html_()
    assert "data:image/svg+xml;base64," in html
    assert "a, b, ü" in html
    assert "tiny" in html


def test_cells_are_tables_without_matplotlib(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "metanas_client.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = Model.load(model_file)._repr_html_()
    assert "<h4>normal cell</h4>" in html
    assert "<img" not in html
