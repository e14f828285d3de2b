"""Numbers, escapes and suggestions for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanas_client.text import printable, size


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (999, "999 bytes"),
        (1000, "1 KB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (3_400_000, "3.4 MB"),
    ],
)
def test_sizes_are_kilobytes_and_megabytes(value: int | None, expected: str) -> None:
    assert size(value) == expected


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_escape_sequences_are_shown() -> None:
    assert printable("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"
