"""One command for the client and the core: its help, the commands of the documentation, Ctrl-C."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from metanas.__main__ import parser as core_parser
from metanas_client.__main__ import main
from metanas_client.cli.core import COMMANDS
from metanas_client.cli.program import parser
from tests.client.conftest import ENVIRONMENT, ROOT

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "DESIGN.md", *(ROOT / "docs").glob("*.md")])
FORMS = (r"^metanas ([a-z].*)$", r"`metanas ([a-z][^`\n]*)`")
CLIENT = "import sys; from metanas_client.__main__ import main; sys.exit(main(sys.argv[1:]))"
HALTED = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.argv[1].split(","):
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
from {package}.__main__ import main
sys.exit(main(["checkpoints"]))
"""


def commands_of(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The sub-commands of a parser, by name."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )


def test_the_help_lists_the_commands_of_client_and_core(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    names = {*commands_of(parser()), *commands_of(core_parser())}
    assert {name for name in names if f"\n  {name} " not in shown} == set()


def test_the_commands_of_the_core_are_known_with_their_helps() -> None:
    [action] = [each for each in core_parser()._actions if each.nargs == argparse.PARSER]
    assert isinstance(action, argparse._SubParsersAction)
    helps = {each.dest: each.help for each in action._choices_actions}
    assert helps.pop("evaluate") is not None  # that of a server has the same name
    assert helps == COMMANDS


def test_the_core_executes_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys"]) == 0
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page
    for command in (["train", "nowhere"], ["evaluate", "--local", "nowhere"]):
        with pytest.raises(SystemExit, match="2"):
            main(command)
        error = capsys.readouterr().err
        assert error.startswith(f"usage: metanas {command[0]} ")
        assert "there is no nowhere" in error


def test_without_the_core_its_commands_name_what_to_install() -> None:
    program = "import sys; sys.modules['metanas'] = None\n" + CLIENT
    for command in (["train", "x.toml"], ["evaluate", "x", "--local"]):
        done = run(program, *command)
        assert (done.returncode, done.stdout) == (2, "")
        assert 'pip install "metanas-client[local]"' in done.stderr
        assert "Traceback" not in done.stderr
    assert "train" in run(program, "--help").stdout


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("metanas_client", "metanas: interrupted"),
        ("metanas_server", "metanas-server: interrupted"),
        ("metanas", "interrupted; continue a training"),
    ],
)
def test_an_interruption_of_the_start_has_no_traceback(package: str, said: str) -> None:
    """Of any import but that of the entry point itself."""
    done = run(HALTED.replace("{package}", package), package)
    assert (done.returncode, done.stderr.count("\n")) == (130, 1)
    assert done.stderr.startswith(said)


def test_the_folder_of_a_completion_is_made(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    command = re.search(r"`(mkdir -p [^`]* metanas completion bash [^`]*)`", text)
    assert command is not None
    program = command[1].replace(
        "metanas completion", f"{sys.executable} -m metanas_client completion"
    )
    environment = {**ENVIRONMENT, "HOME": str(tmp_path)}
    subprocess.run(["bash", "-c", program], env=environment, check=True)
    [script] = tmp_path.rglob("metanas")
    assert "_shtab_metanas" in script.read_text()
    assert "mkdir -p" in run(CLIENT, "completion", "--help").stdout


def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    script = tmp_path / "metanas.bash"
    script.write_text(run(CLIENT, "completion", "bash").stdout)
    for words, expected in {
        "adap": "adapt adaptations",
        "adaptations wa": "watch",
        "adapt --det": "--detach",
        "train --resu": "--resume",
        "predict metanas.b": "metanas.bash",
    }.items():
        count = len(words.split())
        program = f"source {script}; COMP_WORDS=(metanas {words}); COMP_CWORD={count}; "
        program += "_shtab_metanas; echo ${COMPREPLY[@]}"
        done = subprocess.run(
            ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_completion_without_its_library_names_what_to_install() -> None:
    done = run("import sys; sys.modules['shtab'] = None\n" + CLIENT, "completion", "zsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "metanas-client[cli]"' in done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_commands_and_options_of_the_documentation_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = [line for form in FORMS for line in re.findall(form, text, re.MULTILINE)]
    assert [line for line in lines if not exists(shlex.split(line, comments=True))] == []


def exists(words: list[str]) -> bool:
    """True if a command, its sub-command and its options exist."""
    of_core = words[0] in COMMANDS or (words[0] == "evaluate" and "--local" in words)
    command = core_parser() if of_core else parser()
    while below := commands_of(command):
        if not words:
            return True  # a group of commands
        if words[0] not in below:
            return False
        command, words = below[words[0]], words[1:]
    known = {option for action in command._actions for option in action.option_strings}
    named = {word.partition("=")[0] for word in words if word.startswith("--")}
    return named <= known
