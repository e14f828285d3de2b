"""Findings of the checks."""

OK, WARNING, FAILURE = "ok", "warning", "failure"
Found = tuple[str, str]
"""Level and text of a finding; the text says what to do unless the level is "ok"."""
GIB = 2**30
