"""Write the reference of the gRPC API from the .proto files when the documentation is built.

`mkdocs.yml` names this file as a hook. The page is not committed, so it is never out of date.
"""

import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc  # type: ignore[import-untyped]
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROTOS = Path(__file__).resolve().parents[1] / "protos"
PAGE = "reference/grpc.md"
HEAD = (
    "# gRPC API\n\n"
    "Call the server from any language with the files in `protos/metanas_protos/v1`. The "
    "[user guide](../user-guide.md) explains errors and limits."
)
# Numbers of the fields in descriptor.proto: paths of comments are made of them.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, METHODS, VALUES = 2, 3, 4, 2, 2

Place = tuple[int, ...]
Comments = dict[Place, str]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Return the reference, in Markdown."""
    described = sorted(descriptors(), key=lambda file: (not file.service, file.name))
    return "\n".join([HEAD, *(line for file in described for line in _file(file))])


def descriptors() -> Sequence[FileDescriptorProto]:
    """Compile the .proto files, with their comments."""
    sources = sorted(str(path) for path in PROTOS.glob("metanas_protos/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        includes = (f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}")
        arguments = ["protoc", *includes, "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main([*arguments, *sources]):
            raise RuntimeError("protoc could not compile the .proto files; its message is above")
        return FileDescriptorSet.FromString(out.read_bytes()).file


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments: Comments = {
        tuple(place.path): _plain(place.leading_comments or place.trailing_comments)
        for place in file.source_code_info.location
    }
    for i, service in enumerate(file.service):
        yield from _service(service, comments, (SERVICES, i))
    for i, message in enumerate(file.message_type):
        yield from _message(message, "", comments, (MESSAGES, i))
    for i, enum in enumerate(file.enum_type):
        yield from _enum(enum, "", comments, (ENUMS, i))


def _service(service: ServiceDescriptorProto, comments: Comments, at: Place) -> Iterator[str]:
    yield f"\n## {service.name}\n\n{comments.get(at, '')}\n"
    for i, method in enumerate(service.method):
        asked = "stream " * method.client_streaming + _link(method.input_type)
        answer = "stream " * method.server_streaming + _link(method.output_type)
        yield f"### {method.name}\n\n{asked} → {answer}\n\n{comments.get((*at, METHODS, i), '')}\n"


def _message(message: DescriptorProto, outer: str, comments: Comments, at: Place) -> Iterator[str]:
    name = f"{outer}{message.name}"
    yield f"\n### {name}\n\n{comments.get(at, '')}\n"
    if message.field:
        yield "| field | type | meaning |\n|---|---|---|"
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    for i, field in enumerate(message.field):
        meaning = _cell(comments.get((*at, FIELDS, i), ""))
        yield f"| `{field.name}` | {_type(field, entries)} | {meaning} |"
    for i, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(nested, f"{name}.", comments, (*at, NESTED, i))
    for i, enum in enumerate(message.enum_type):
        yield from _enum(enum, f"{name}.", comments, (*at, NESTED_ENUMS, i))


def _enum(enum: EnumDescriptorProto, outer: str, comments: Comments, at: Place) -> Iterator[str]:
    yield f"\n### {outer}{enum.name}\n\n{comments.get(at, '')}\n\n| value | meaning |\n|---|---|"
    for i, value in enumerate(enum.value):
        yield f"| `{value.name}` | {_cell(comments.get((*at, VALUES, i), ''))} |"


def _type(field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
    entry = entries.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        return f"map of {_type(entry.field[0], {})} to {_type(entry.field[1], {})}"
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = _link(field.type_name) if field.type_name else kind
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"{'repeated ' * repeated}{'optional ' * field.proto3_optional}{name}"


def _link(name: str) -> str:
    """Link a message of this page; name those of others."""
    package = ".metanas.v1."
    if not name.startswith(package):
        return f"`{name.removeprefix('.')}`"
    local = name.removeprefix(package)
    return f"[{local}](#{local.lower().replace('.', '')})"


def _plain(comment: str) -> str:
    return "\n".join(line.strip() for line in comment.strip().splitlines())


def _cell(comment: str) -> str:
    return " ".join(comment.split()).replace("|", "\\|")
