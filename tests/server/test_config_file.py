"""The configuration file: its place below flags and variables, and its errors."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from metanas.spec.examples import Limits
from metanas_server.config import ServerConfig, options, parse
from metanas_server.errors import StartError
from tests.server.processes import ENVIRONMENT, maintain, run, serving

SOURCES = ("flag", "variable", "file")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metanas.toml"


@pytest.mark.parametrize("count", range(1, 8))
def test_the_first_source_that_sets_an_option_wins(file: Path, count: int) -> None:
    """All combinations of the sources: flag, then variable, then file."""
    given = {name: 10 + bit for bit, name in enumerate(SOURCES) if count >> bit & 1}
    file.write_text(f"max_queue = {given['file']}\n" if "file" in given else "", encoding="utf-8")
    flags = ["--max-queue", str(given["flag"])] if "flag" in given else []
    variables = {"METANAS_MAX_QUEUE": str(given["variable"])} if "variable" in given else {}
    config = parse([*flags, "--config", str(file)], variables)
    assert config.max_queue == given[next(name for name in SOURCES if name in given)]
    assert config.max_stack == ServerConfig().max_stack


def test_all_kinds_of_values(file: Path) -> None:
    lines = ('data = "/somewhere"', 'devices = ["cpu", "cpu"]', "reflection = false", "grace = 2")
    file.write_text("\n".join((*lines, "max_ways = 7", 'metrics = "9464"')), encoding="utf-8")
    config = parse([], {"METANAS_CONFIG": str(file)})
    assert config.data == Path("/somewhere")
    assert config.devices == ("cpu", "cpu")
    assert config.reflection is False
    assert config.grace == 2
    assert config.limits == Limits(max_ways=7)
    assert config.metrics_address == ("127.0.0.1", 9464)


def toml(value: Any) -> str:
    """A value in TOML; paths and lists of names are the only other types of the options."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def test_each_option_can_be_in_the_file(file: Path) -> None:
    """A file of all defaults gives the default configuration."""
    given = [each for each in options() if each.default is not None]
    text = "".join(f"{each.name} = {toml(each.default)}\n" for each in given)
    file.write_text(text, encoding="utf-8")
    read, default = parse(["--config", str(file)], {}), ServerConfig()
    names = {field.name for field in fields(ServerConfig)} - {"config"}
    assert {name: getattr(read, name) for name in names} == {
        name: getattr(default, name) for name in names
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_ways = ", "it is no TOML"),
        ("max_wais = 3", r"there is no option 'max_wais'\. Did you mean max_ways\?"),
        ("[limits]\nmax_ways = 3", "there is no option 'limits'"),
        ('config = "other.toml"', "there is no option 'config'"),
        ('max_ways = "many"', "--max-ways must be an integer >= 2, not 'many'"),
        ("max_ways = 1", "--max-ways must be an integer >= 2, not 1"),
        ("data = 3", "--data must be a path, not 3"),
        ('devices = "cpu"', "--devices must be a list of strings, not 'cpu'"),
        ("devices = [1]", "--devices must be a list of strings"),
        ("reflection = 1", "--reflection must be a boolean, not 1"),
        ("listen = 50051", "--listen must be a string, not 50051"),
        ("\ud800", "it is no TOML"),
    ],
)
def test_wrong_files(file: Path, text: str, message: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(StartError, match=message) as caught:
        parse(["--config", str(file)], {})
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_missing_file(checkpoints: Path, tmp_path: Path) -> None:
    ended = run(checkpoints, tmp_path / "data", "--config", str(tmp_path / "none.toml"))
    assert ended.returncode == 2
    assert "cannot be read: No such file or directory; give another file, or none" in ended.stderr


def test_a_server_with_a_file(checkpoints: Path, tmp_path: Path, file: Path) -> None:
    file.write_text('max_queue = 3\nlog_level = "warning"\n', encoding="utf-8")
    with serving(checkpoints, tmp_path / "data", "--config", str(file)) as server:
        server.api.serves()
    assert (tmp_path / "data.log").read_text(encoding="utf-8") == ""


def test_commands_take_their_options_from_the_file(tmp_path: Path, file: Path) -> None:
    tokens = tmp_path / "tokens"
    file.write_text(f"data = '{tmp_path / 'data'}'\ntoken_file = '{tokens}'\nmax_ways = 9\n")
    maintain("tokens", "create", "workshop", "--config", str(file))
    assert "workshop" in maintain("tokens", "list", "--config", str(file))
    variable = {**ENVIRONMENT, "METANAS_CONFIG": str(file)}
    other = str(tmp_path / "other")
    assert maintain("tokens", "create", "b", "--token-file", other, environment=variable)
    assert "workshop" not in maintain("tokens", "list", "--token-file", other)
    (tmp_path / "data").mkdir()
    assert maintain("repair", environment=variable) == "nothing to repair\n"
    assert (tmp_path / "data" / "records.sqlite3").exists()
