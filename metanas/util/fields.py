"""Options that are declared once, as fields of a dataclass: type, bounds, default and help.

```
steps: Annotated[int, Range(0, 500)] = 10
\"\"\"Task-optimizer steps on weights and alphas together.\"\"\"
```

`check` refuses values out of bounds, and `describe` reads the declarations for help and pages.
"""

import ast
import inspect
import json
import re
import textwrap
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from math import inf
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from metanas.errors import InvalidInput, Violation

WORDS = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", Path: "a path"}
"""Types in the words of users."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number. A number without bounds has to be finite, too."""

    least: float = -inf
    most: float = inf
    above: float = -inf
    below: float = inf

    def allows(self, value: float) -> bool:
        """Return True if the number lies within the bounds; NaN lies in none."""
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        """Return the bounds as text: "from 0 to 500", ">= 0, < 1"."""
        if -inf < self.least and self.most < inf:
            return f"from {self.least} to {self.most}"
        bounds = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        return ", ".join(f"{sign} {each}" for sign, each in bounds.items() if abs(each) < inf)


@dataclass(frozen=True)
class OneOf:
    """The values that an option can have."""

    values: tuple[Any, ...]

    def allows(self, value: object) -> bool:
        """Return True if the value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        """Return the values in words: "one of 1, 2"."""
        return f"one of {', '.join(map(json.dumps, self.values))}"


Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
NonNegative = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Declaration:
    """One option of a dataclass."""

    name: str
    kind: str
    """Type and bounds as text: "integer from 0 to 500"."""
    default: Any
    """`dataclasses.MISSING` for an option that has to be given."""
    help: str
    """The text below the field, on one line."""


def check(options: Any) -> None:
    """Check each field of a dataclass against its type and bounds.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE, for all wrong fields at once.
    """
    require(
        *(
            (name, False, f"must be {_words(hint)}, not {getattr(options, name)!r}")
            for name, hint in _hints(type(options)).items()
            if not _allows(hint, getattr(options, name))
        )
    )


def require(*conditions: tuple[str, bool, str]) -> None:
    """Check conditions that a range cannot express, such as those on two fields.

    conditions: name of the field, the condition, and the message if it does not hold.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE, for all conditions that do not hold.
    """
    bad = [
        Violation(name, "OPTION_OUT_OF_RANGE", text)
        for name, holds, text in conditions
        if not holds
    ]
    if bad:
        raise InvalidInput(bad)


def describe(kind: type[Any]) -> list[Declaration]:
    """Return the options of a dataclass, but for fields that are dataclasses themselves."""
    texts, declared = _texts(kind), []
    for field in fields(kind):
        words = re.sub("^an? ", "", _words(_hints(kind)[field.name]))
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        if words:
            declared.append(Declaration(field.name, words, default, texts.get(field.name, "")))
    return declared


def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _texts(kind: type) -> dict[str, str]:
    """Return the texts below the fields of a dataclass, by name, from its source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, below in pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                texts[name] = " ".join(str(text).split())
    return texts


def _split(hint: Any) -> tuple[Any, tuple[Range | OneOf, ...]]:
    """Return a type without None, and its bounds."""
    if isinstance(hint, UnionType):
        hint = get_args(hint)[0]
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _allows(hint: Any, value: Any) -> bool:
    kind, bounds = _split(hint)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if type(value) is tuple and Ellipsis in kinds:
            kinds = kinds[:1] * len(value)
        fits = type(value) is tuple and len(value) == len(kinds)
        return fits and all(map(_allows, kinds, value))
    if kind not in WORDS or (value is None and isinstance(hint, UnionType)):
        return True
    fits = isinstance(value, int | float if kind is float else kind)
    fits = fits and isinstance(value, bool) == (kind is bool)
    finite = kind is not float or not fits or -inf < value < inf
    return fits and finite and all(bound.allows(value) for bound in bounds)


def _words(hint: Any) -> str:
    """Return type and bounds as text; nothing for a type that is no option."""
    kind, bounds = _split(hint)
    if get_origin(kind) is tuple:
        first, second = map(_words, get_args(kind))
        several = re.sub(r"^an? (\w+)", r"\1s", first)
        if not second:
            return f"a list of {several}"
        return f"two {several}" if first == second else f"a pair of {first} and {second}"
    one_of = any(isinstance(bound, OneOf) for bound in bounds)
    return " ".join(([] if one_of else [WORDS.get(kind, "")]) + list(map(str, bounds)))
