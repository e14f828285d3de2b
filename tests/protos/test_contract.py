"""The contract: what is committed is what the .proto files say, linted and documented."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
from google.protobuf.descriptor import FieldDescriptor

from metanas.spec.examples import Limits
from metanas.spec.options import AdaptConfig
from metanas.util.fields import describe
from metanas_protos.inference import inference_service_pb2
from metanas_protos.v1 import (
    adaptation_pb2,
    adaptation_service_pb2,
    checkpoint_pb2,
    checkpoint_service_pb2,
    model_service_pb2,
)
from metanas_protos.v1.option_help import OPTION_HELP

PROTOS = Path(__file__).resolve().parents[2] / "protos"
OPTION_TYPES = {
    FieldDescriptor.TYPE_BOOL: "boolean",
    FieldDescriptor.TYPE_INT32: "integer",
    FieldDescriptor.TYPE_DOUBLE: "number",
    FieldDescriptor.TYPE_STRING: "one of",
}
SOURCES = sorted((PROTOS / "metanas_protos" / "v1").glob("*.proto"))


def test_the_generated_code_is_what_the_protos_say() -> None:
    command = [sys.executable, str(PROTOS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stale_code_is_noticed(tmp_path: Path) -> None:
    """A copy of the package with one comment changed and one file too many."""
    shutil.copytree(PROTOS, tmp_path / "protos")
    package = tmp_path / "protos" / "metanas_protos" / "v1"
    source = package / "failure.proto"
    source.write_text(source.read_text(encoding="utf-8").replace("int32 code", "int64 code"))
    (package / "gone_pb2.py").touch()
    command = [sys.executable, str(tmp_path / "protos" / "generate.py")]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "failure_pb2.py is out of date" in done.stderr
    assert "gone_pb2.py is out of date" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0
    assert subprocess.run([*command, "--check"], check=False).returncode == 0
    assert not (package / "gone_pb2.py").exists()


@pytest.mark.parametrize("arguments", [["lint"], ["format", "--diff", "--exit-code"]])
def test_the_protos_are_linted_and_formatted(arguments: list[str]) -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([buf, *arguments, PROTOS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_break_of_the_contract_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(PROTOS, tmp_path / "protos")
    source = tmp_path / "protos" / "metanas_protos" / "v1" / "failure.proto"
    source.write_text(source.read_text(encoding="utf-8").replace("int32 code", "string code"))
    buf = Path(sys.executable).parent / "buf"
    command = [str(buf), "breaking", str(tmp_path / "protos"), "--against", str(PROTOS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 100
    assert "changed type" in done.stdout


def test_the_options_are_those_of_the_core() -> None:
    """A new option is one field of `AdaptConfig`, and one of the message with the same text."""
    declared, there = describe(AdaptConfig), adaptation_pb2.AdaptationOptions.DESCRIPTOR.fields
    assert [field.name for field in there] == [option.name for option in declared]
    for field, option in zip(there, declared, strict=True):
        assert OPTION_TYPES[field.type] in option.kind
        bounds = "" if option.kind == "boolean" else f" {option.kind.capitalize()}."
        assert OPTION_HELP[field.name] == option.help + bounds


def test_the_inference_protocol_is_that_of_its_clients() -> None:
    """Each message has the fields of tritonclient, with the same numbers and types."""
    theirs = tritonclient.grpc.service_pb2.DESCRIPTOR
    methods = theirs.services_by_name["GRPCInferenceService"].methods_by_name
    for method in inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        assert method.name in methods
    for name, message in inference_service_pb2.DESCRIPTOR.message_types_by_name.items():
        assert fields_of(message) <= fields_of(
            theirs.pool.FindMessageTypeByName(f"inference.{name}")
        )


def fields_of(message: Any) -> set[tuple[object, ...]]:
    """The fields of a message and of those in it, without messages that are not in it."""
    own = {
        (message.full_name, each.name, each.number, each.type, each.is_repeated)
        for each in message.fields
    }
    return own.union(*map(fields_of, message.nested_types))


def test_the_limits_are_those_of_the_core() -> None:
    theirs = {field.name for field in checkpoint_pb2.Limits.DESCRIPTOR.fields}
    assert theirs == set(Limits.__dataclass_fields__)


def test_every_service_is_where_its_name_says() -> None:
    for module, name in (
        (adaptation_service_pb2, "AdaptationService"),
        (model_service_pb2, "ModelService"),
        (checkpoint_service_pb2, "CheckpointService"),
    ):
        service = module.DESCRIPTOR.services_by_name[name]
        assert service.full_name == f"metanas.v1.{name}"
        for method in service.methods:
            assert method.input_type.name == f"{method.name}Request"
            assert method.output_type.name == f"{method.name}Response"
