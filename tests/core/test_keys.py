"""The reference of a configuration's keys: complete, true of the code, and the page in docs/."""

import json
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import pytest

from metanas.__main__ import main
from metanas.training.config import RunConfig
from metanas.training.config_file import page, sections

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_code_says() -> None:
    told = "docs/configuration.md is not what `metanas keys` prints: write it anew"
    assert PAGE.read_text(encoding="utf-8") == page(), told


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys"]) == 0
    assert capsys.readouterr().out == page()


def test_every_key_is_there_with_its_default_and_a_meaning() -> None:
    hints = get_type_hints(RunConfig)
    names = {name for name, _, _ in sections()}
    for name, meaning, keys in sections():
        assert meaning
        kind = hints[name] if name else RunConfig
        known = {one.name: one for one in fields(kind) if name or one.name not in names}
        assert [key.name for key in keys] == list(known)
        for key in keys:
            assert key.help, key.name
            default = known[key.name].default
            assert key.default == default
            if default is not MISSING:
                text = json.dumps(default)
                assert f"- `{key.name}` ({key.kind}; default `{text}`): {key.help}\n" in page()
                read = tomllib.loads(f"key = {text}")["key"]
                assert read == (list(default) if isinstance(default, tuple) else default)
