"""Generates the Python code of the contract from its .proto files: `python protos/generate.py`.

The generated code is committed. With `--check` nothing is written: the exit code is 1 when what is
committed is not what the .proto files say. Needs the pinned generators (`grpcio-tools`,
`mypy-protobuf`); grpcio-tools is the oldest version supported on purpose, because generated code
refuses to run with a protobuf library older than its generator.

The code of `PRIVATE` registers its messages in a descriptor pool of its own: other libraries bring
code for the same proto package, and one pool refuses two files with equal names.
"""

import argparse
import filecmp
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

GENERATORS = {"grpcio-tools": "1.81.1", "mypy-protobuf": "5.1.0"}
ROOT = Path(__file__).resolve().parent
PACKAGE = Path("metanas_protos/v1")
PRIVATE = Path("metanas_protos/inference")
PACKAGES = (PACKAGE, PRIVATE)
OPTION_HELP = "option_help.py"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi", OPTION_HELP)


def main() -> int:
    """Generate or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    for name, wanted in GENERATORS.items():
        if version(name) != wanted:
            print(f"{name} {version(name)} is installed; install {name}=={wanted}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if check:
            stale = [p / name for p in PACKAGES for name in differences(fresh / p, ROOT / p)]
            for path in stale:
                print(f"{path} is out of date; run protos/generate.py", file=sys.stderr)
            return 1 if stale else 0
        for package in PACKAGES:
            replace(fresh / package, ROOT / package)
    return 0


def generate(target: Path) -> None:
    """Write the code of every .proto file of the packages below `target`."""
    plugins = [
        f"--plugin={name}={_program(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    includes = [f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]
    everything = sorted(path for each in PACKAGES for path in (ROOT / each).glob("*.proto"))
    described = target / "descriptors"
    comments = [f"--descriptor_set_out={described}", "--include_source_info"]
    services = [path for path in everything if path.stem.endswith("_service")]
    messages = [f"--python_out={target}", f"--mypy_out=quiet:{target}"]
    stubs = [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]
    for outputs, sources in ((messages, everything), (stubs, services), (comments, everything)):
        code = protoc.main(["protoc", *includes, *plugins, *outputs, *map(str, sources)])
        if code != 0:
            raise SystemExit(code)
    for module in (target / PRIVATE).glob("*_pb2.py"):
        use_private_pool(module)
    files_ = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes())
    lines = ['"""Help on the options of an adaptation: the comments of `AdaptationOptions`."""', ""]
    lines += ["from collections.abc import Mapping", "", "OPTION_HELP: Mapping[str, str] = {"]
    lines += [f"    {name!r}: {text!r}," for name, text in option_help(files_)]
    (target / PACKAGE / OPTION_HELP).write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


def use_private_pool(module: Path) -> None:
    """Let a generated module make a descriptor pool instead of using the pool of the process."""
    code = module.read_text(encoding="utf-8")
    shared, private = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"
    if code.count(shared) != 1:
        raise SystemExit(f"{module.name} uses the pool of the process in an unknown way")
    module.write_text(code.replace(shared, private), encoding="utf-8")


def option_help(found: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[str, str]]:
    """Yield the name and the comment of each field of `AdaptationOptions`, on one line."""
    for file in found.file:
        comments = {
            tuple(each.path): each.leading_comments for each in file.source_code_info.location
        }
        for index, message in enumerate(file.message_type):
            if message.name == "AdaptationOptions":
                for number, each in enumerate(message.field):  # 4: messages of a file, 2: fields
                    yield each.name, " ".join(comments[4, index, 2, number].split())


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names of generated files that are missing, left over or different in `committed`."""
    names = _generated(fresh) | _generated(committed)
    _, mismatch, errors = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
    return sorted(mismatch + errors)


def replace(fresh: Path, committed: Path) -> None:
    """Make the generated files in `committed` those in `fresh`."""
    for name in _generated(committed):
        (committed / name).unlink()
    for name in _generated(fresh):
        shutil.copyfile(fresh / name, committed / name)


def _generated(folder: Path) -> set[str]:
    return {path.name for pattern in GENERATED for path in folder.glob(pattern)}


def _program(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is missing; install mypy-protobuf=={GENERATORS['mypy-protobuf']}")
    return found


if __name__ == "__main__":
    sys.exit(main())
