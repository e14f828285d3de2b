"""Check the reference of the gRPC API, which is made from the .proto files."""

import re

from docs.grpc_page import descriptors, page


def test_the_page_names_every_method_message_and_field() -> None:
    text = page()
    for file in descriptors():
        for service in file.service:
            assert {f"### {method.name}\n" in text for method in service.method} == {True}
        for message in file.message_type:
            assert f"### {message.name}\n" in text
            assert [f.name for f in message.field if f"| `{f.name}` |" not in text] == []


def test_links_of_the_page_lead_to_its_headings() -> None:
    text = page()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {heading.lower().replace(".", "") for heading in headings}
    links = re.findall(r"\]\(#(\w+)\)", text)
    assert links
    assert set(links) - anchors == set()


def test_everything_in_the_api_has_a_comment() -> None:
    assert re.findall(r"^\| `\w+` \|[^|]*\|\s*\|$", page(), re.MULTILINE) == []
