"""The configuration: flags, environment variables, defaults, help."""

from dataclasses import fields
from pathlib import Path

import pytest

from metanas.spec.examples import Limits
from metanas_server.config import ServerConfig, options, parse
from metanas_server.errors import StartError


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    variables = {
        "METANAS_MAX_WAYS": "7",
        "METANAS_MAX_SHOTS": "9",
        "METANAS_DATA": "/somewhere",
        "METANAS_REFLECTION": "no",
        "METANAS_DEVICES": "cpu, cpu",
        "METANAS_GRACE": "1.5",
    }
    config = parse(["--max-ways", "5"], variables)
    assert config.limits == Limits(max_ways=5, max_shots=9)
    assert config.data == Path("/somewhere")
    assert config.reflection is False
    assert config.devices == ("cpu", "cpu")
    assert config.grace == 1.5
    assert config.max_queue == ServerConfig().max_queue
    assert parse([], {}) == ServerConfig()


def test_the_default_checkpoints_are_the_shipped_ones() -> None:
    shipped = Path(__file__).parents[2] / "meta_checkpoints"
    assert ServerConfig().checkpoints.resolve() == shipped.resolve()


def test_default_limits_are_those_of_the_core() -> None:
    assert ServerConfig().limits == Limits()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("METANAS_MAX_WAYS", "many"),
        ("METANAS_MAX_WAYS", "1"),
        ("METANAS_REFLECTION", "perhaps"),
        ("METANAS_LISTEN", "0.0.0.0:1"),
    ],
)
def test_invalid_variables(variable: str, value: str) -> None:
    with pytest.raises(StartError):
        parse([], {variable: value})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    config = ServerConfig(listen=f"{host}:1", studio=f"{host}:2")
    assert config.address == (host.strip("[]"), 1)
    assert config.studio_address == (host.strip("[]"), 2)


@pytest.mark.parametrize("names", ["cpu", "cuda", "cuda:0", "cpu,cuda:0,cuda:11"])
def test_names_of_devices(names: str) -> None:
    assert parse(["--devices", names], {}).devices == tuple(names.split(","))


@pytest.mark.parametrize("names", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cpu,tpu"])
def test_names_of_no_device(names: str) -> None:
    with pytest.raises(StartError) as caught:
        parse(["--devices", names], {})
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_misspelt_flag_is_answered_with_a_suggestion() -> None:
    with pytest.raises(StartError, match=r"Did you mean --max-stack\?"):
        parse(["--max-stak", "1"], {})


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(StartError, match="--max-stack must be an integer >= 1, not 0; --grace"):
        parse(["--max-stack", "0", "--grace", "-1"], {})


@pytest.mark.parametrize("flag", ["--max-stack", "--max-stack-images", "--max-silence"])
def test_counts_and_seconds_of_zero(flag: str) -> None:
    with pytest.raises(StartError, match=flag):
        parse([flag, "0"], {})


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {})
    assert ended.value.code == 0
    text = capsys.readouterr().out
    names = {field.name for kind in (ServerConfig, Limits) for field in fields(kind)} - {"limits"}
    assert names == {option.name for option in options()}
    for option in options():
        assert f"--{option.name.replace('_', '-')}" in text
        assert option.help
        assert option.help.split(maxsplit=1)[0] in text
    assert "METANAS_MAX_WAYS" in text
