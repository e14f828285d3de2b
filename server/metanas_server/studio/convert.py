"""Convert the messages of the contract to JSON and back, by the mapping of proto3."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from metanas.errors import InvalidInput
from metanas.spec.variant import Variant
from metanas_protos.v1 import adaptation_pb2


def parse_spec(fields: Mapping[str, Any]) -> adaptation_pb2.AdaptationSpec:
    """Return the spec that JSON describes.

    Raises:
        InvalidInput: REQUEST_MALFORMED.
    """
    try:
        return json_format.ParseDict(dict(fields), adaptation_pb2.AdaptationSpec())
    except json_format.ParseError as error:
        text = f"the spec is not valid: {error}"
        raise InvalidInput.single("spec", "REQUEST_MALFORMED", text) from error


def parse_variant(query: Mapping[str, str]) -> Variant | None:
    """Return the variant of a file that a query asks for; None for the file itself.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE.
    """
    numbers = {name: query[name] for name in ("height", "width", "opset") if name in query}
    wrong = [name for name, text in numbers.items() if not (text.isascii() and text.isdigit())]
    if wrong:
        raise InvalidInput.single(wrong[0], "OPTION_OUT_OF_RANGE", "must be a whole number")
    fields: dict[str, Any] = {name: int(text[:9]) for name, text in numbers.items()}
    if "precision" in query:
        fields["precision"] = query["precision"]
    return Variant(**fields) if fields else None


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON, with the names of the contract."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
