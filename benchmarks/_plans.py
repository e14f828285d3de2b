"""What the study evaluates: settings, on how many episodes, and in which tables they appear."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from metanas.spec.options import AdaptConfig, Option

BOTH, WEIGHTS, PRUNED, NONE, PROBE = "both", "weights", "pruned", "none", "probe"
SETTINGS = (BOTH, WEIGHTS, PRUNED, NONE, PROBE)
"""Those of the first table."""
STEPS = (1, 5, 10, 20, 50, 100)
OF_SHAPES = (300, 60, 80)
"""Episodes of each shape in the first table; further shapes have as many as the last."""
OF_STEPS = (80, 30)
"""Episodes of up to `FEW` steps, and of more."""
FEW = 20
OF_VARIANTS = (200, 60)
"""Episodes of the first shape and of each further one for networks that are compared."""
_STEPS = "steps-"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One evaluation of a checkpoint on episodes of one shape."""

    name: str
    shape: str
    """WAYSxSHOTS."""
    episodes: int
    overrides: Mapping[str, Option] = field(default_factory=dict)
    transductive: bool = False


def steps_of(name: str) -> int | None:
    """The number of steps of such a setting."""
    return int(name.removeprefix(_STEPS)) if name.startswith(_STEPS) else None


def steps_name(steps: int) -> str:
    """The name of the setting with so many steps."""
    return f"{_STEPS}{steps}"


def overrides_of(name: str, defaults: AdaptConfig) -> dict[str, Option]:
    """The options that make a setting of the first table what it is."""
    every = defaults.steps + defaults.tuning_steps
    found: dict[str, dict[str, Option]] = {
        BOTH: {},
        WEIGHTS: {"alpha_lr": 0.0},
        PRUNED: {"steps": 0, "tuning_steps": every},
        NONE: {"steps": 0, "tuning_steps": 0},
        PROBE: {"steps": 0, "tuning_steps": 0},
    }
    return found[name]


def settings_of(
    shapes: Sequence[str], steps: Sequence[int], defaults: AdaptConfig
) -> Iterator[Setting]:
    """All settings of the checkpoint that the study is about."""
    for index, shape in enumerate(shapes):
        count = OF_SHAPES[min(index, len(OF_SHAPES) - 1)]
        for name in SETTINGS:
            yield Setting(
                name=name,
                shape=shape,
                episodes=count,
                overrides=overrides_of(name, defaults),
                transductive=name == BOTH,
            )
    for count in steps:
        yield Setting(
            name=steps_name(count),
            shape=shapes[0],
            episodes=OF_STEPS[count > FEW],
            overrides={"steps": count, "patience": 0},
        )


def settings_of_variant(shapes: Sequence[str], defaults: AdaptConfig) -> Iterator[Setting]:
    """The settings of a network that is compared with others."""
    for index, shape in enumerate(shapes):
        for name in (BOTH, WEIGHTS, NONE):
            overrides, episodes = overrides_of(name, defaults), OF_VARIANTS[index > 0]
            yield Setting(name=name, shape=shape, episodes=episodes, overrides=overrides)
