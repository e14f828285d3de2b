"""Models that callers share, pin and reuse: the SDK and the command line against a real server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metanas_client import AsyncClient, Busy, Client, InvalidInput, NotFound
from metanas_client.__main__ import main
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.client.conftest import running_server

NAMES = ("ann", "bob", "eve")
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("callers") / "tokens"
    return {"file": str(path), **{name: tokens.create(path, name, Role.USE) for name in NAMES}}


@pytest.fixture(scope="module")
def guarded(
    checkpoints: Path, secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server with callers."""
    flags = ("--token-file", secrets["file"], "--max-pinned-per-caller=1")
    data = tmp_path_factory.mktemp("guarded") / "data"
    with running_server(checkpoints, data, *flags) as address:
        yield address


@pytest.fixture(scope="module")
def ann(guarded: str, secrets: dict[str, str]) -> Iterator[Client]:
    with Client(guarded, token=secrets["ann"]) as client:
        yield client


@pytest.fixture(scope="module")
def bob(guarded: str, secrets: dict[str, str]) -> Iterator[Client]:
    with Client(guarded, token=secrets["bob"]) as client:
        yield client


@pytest.fixture(scope="module")
def model(ann: Client, folder: Path) -> str:
    return ann.adapt(folder).result().name


@pytest.fixture
def metanas(
    guarded: str, secrets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Run a command of ann, and return its JSON."""

    def run(*arguments: str) -> Any:
        here = ("--server", guarded, "--token", secrets["ann"], "--json")
        code = main([*arguments, *here])
        shown = capsys.readouterr()
        return json.loads(shown.out) if code == 0 else json.loads(shown.err)["error"]["reason"]

    yield run
    with Client(guarded, token=secrets["ann"]) as client:
        for each in client.models():
            client.update_model(each.name, pinned=False, unshare=each.shared_with)


def test_share_and_unshare(metanas: Run, ann: Client, bob: Client, model: str) -> None:
    with pytest.raises(NotFound):
        bob.model(model)
    [shown] = metanas("models", "share", model, "--with", "bob", "eve")
    assert (shown["name"], shown["owner"], shown["shared_with"]) == (model, "", ["bob", "eve"])
    [seen] = bob.models(shared=True)
    assert (seen.name, seen.owner, seen.shared_with) == (model, "ann", ())
    assert list(bob.models()) == []
    assert bob.model(model).onnx == ann.model(model).onnx
    with pytest.raises(NotFound):
        bob.update_model(model, share_with=["eve"])
    [shown] = metanas("models", "unshare", model, "--with", "bob")
    assert shown["shared_with"] == ["eve"]
    [shown] = metanas("models", "share", model, "--with-everybody")
    assert shown["shared_with"] == ["*", "eve"]
    assert [each.name for each in bob.models(shared=True)] == [model]
    [shown] = metanas("models", "unshare", model, "--with-everybody")
    assert shown["shared_with"] == ["eve"]
    assert metanas("models", "unshare", model)[0]["shared_with"] == []
    with pytest.raises(NotFound):
        bob.model(model)


def test_pin_and_unpin(metanas: Run, ann: Client, folder: Path, model: str) -> None:
    other = ann.adapt(folder, seed=1).result().name
    assert metanas("models", "pin", model)[0]["pinned"]
    assert metanas("models", "pin", other) == "PINS_FULL"
    with pytest.raises(Busy, match="unpin or delete one"):
        ann.update_model(other, pinned=True)
    listed = {each["name"]: each["pinned"] for each in metanas("models", "list")}
    assert listed == {model: True, other: False}
    assert not metanas("models", "unpin", model)[0]["pinned"]
    assert metanas("models", "pin", other)[0]["pinned"]
    assert metanas("models", "delete", other) == {"deleted": [other]}


@pytest.mark.parametrize("as_json", [True, False])
def test_an_unknown_name_among_others(
    guarded: str, secrets: dict[str, str], ann: Client, folder: Path, capsys: Any, *, as_json: bool
) -> None:
    """The models before it have changed, and are shown."""
    name = ann.adapt(folder, seed=2).result().name
    here = ["--server", guarded, "--token", secrets["ann"], *["--json"] * as_json]
    for command in ("pin", "unpin", "delete"):
        assert main(["models", command, name, "nope", *here]) == 4
        shown = capsys.readouterr()
        assert "models/nope" in shown.err
        if as_json and command == "delete":
            assert json.loads(shown.out) == {"deleted": [name]}
        elif as_json:
            [changed] = json.loads(shown.out)
            assert (changed["name"], changed["pinned"]) == (name, command == "pin")
        elif command == "delete":
            assert shown.out == f"deleted {name}\n"
        else:
            assert shown.out.splitlines()[1] == f"{name}\t{'yes' * (command == 'pin')}\t"
        assert main(["models", command, "nope", *here]) == 4
        assert capsys.readouterr().out == ""


def test_the_tables(
    guarded: str, secrets: dict[str, str], ann: Client, model: str, capsys: Any
) -> None:
    ann.update_model(model, pinned=True, share_with=["*", "bob"])
    here = ("--server", guarded, "--token")
    assert main(["models", "list", *here, secrets["ann"]]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("\t\tyes\teverybody, bob")
    assert main(["models", "list", "--shared", *here, secrets["eve"]]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("\tann\t\t")
    assert main(["models", "unshare", model, *here, secrets["ann"]]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{model}\tyes\t"
    ann.update_model(model, pinned=False)


async def test_the_asynchronous_client(guarded: str, secrets: dict[str, str], model: str) -> None:
    async with (
        AsyncClient(guarded, token=secrets["ann"]) as ann,
        AsyncClient(guarded, token=secrets["bob"]) as bob,
    ):
        changed = await ann.update_model(model.removeprefix("models/"), share_with=["bob"])
        assert changed.shared_with == ("bob",)
        assert [each.name async for each in bob.models(shared=True)] == [model]
        with pytest.raises(InvalidInput) as caught:
            await ann.update_model(model, share_with=["b b"])
        assert caught.value.reason == "CALLER_NAME"
        await ann.update_model(model, unshare=["bob"])
        assert [each.name async for each in bob.models(shared=True)] == []


def test_reuse(metanas: Run, ann: Client, bob: Client, folder: Path, tmp_path: Path) -> None:
    first = ann.adapt(folder, seed=3, reuse=True)
    model = first.result()
    again = ann.adapt(folder, seed=3, reuse=True)
    assert (first.reused, again.name, again.reused) == (False, first.name, True)
    assert not ann.adapt(folder, seed=3).reused
    assert not bob.adapt(folder, seed=3, reuse=True).reused
    out = str(tmp_path / "model.onnx")
    shown = metanas("adapt", str(folder), "--seed=3", "--reuse", f"--out={out}")
    assert (shown["model"], Path(out).read_bytes()) == (model.name, model.onnx)
    shown = metanas("adapt", str(folder), "--seed=3", "--reuse", "--detach")
    assert (shown["adaptation"], shown["reused"]) == (first.name, True)


def test_reuse_is_said(
    guarded: str, secrets: dict[str, str], ann: Client, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    first = ann.adapt(folder, seed=4)
    here = [f"--server={guarded}", f"--token={secrets['ann']}", f"--out={tmp_path / 'm.onnx'}"]
    assert main(["adapt", str(folder), "--seed=4", "--reuse", *here]) == 0
    assert capsys.readouterr().out.startswith(f"reuses {first.name}\n")


def test_one_text_is_no_list_of_callers(ann: Client, model: str) -> None:
    with pytest.raises(InvalidInput, match=r"share_with: .* write \['bob'\]") as caught:
        ann.update_model(model, share_with="bob")
    assert caught.value.reason == "CALLER_NAME"
    with pytest.raises(InvalidInput, match="unshare"):
        ann.update_model(model, unshare="bob")


@pytest.mark.parametrize(
    "words",
    [
        "models get \udcff",
        "models delete \udcff",
        "models pin models/\udcff",
        "models share x --with bob \udcff",
        "adaptations watch \udcff",
        "adaptations cancel \udcff",
    ],
)
def test_arguments_that_are_not_utf8(metanas: Run, words: str) -> None:
    """Bytes of a command line that are not UTF-8 arrive as surrogates."""
    assert metanas(*words.split()) == "NOT_UTF8"
