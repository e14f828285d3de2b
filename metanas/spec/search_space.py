"""The search space: every size of a supernet, as data of its checkpoint."""

from dataclasses import dataclass

from metanas.errors import InvalidInput, Violation
from metanas.spec.trunk_plans import TRUNKS


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Sizes of a supernet; nothing about it is a constant in code."""

    input_channels: int
    """1 for grey images, 3 for RGB."""
    ops: tuple[str, ...]
    """Names of the candidate operations on every edge."""
    channels: tuple[int, ...]
    """Width of each cell; a cell's output has `nodes` times as many channels."""
    reductions: tuple[int, ...]
    """Indices of the cells that halve the resolution."""
    nodes: int = 3
    """Intermediate nodes of a cell."""
    stem_channels: tuple[int, ...] = (48,)
    """Output channels of the stem's convolutions. One at full resolution before the one that
    strides costs little and sees the finest strokes where they are."""
    stem_stride: int = 1
    """Stride of the last of them."""
    grid: int = 1
    """The last maps are averaged over their whole, or with 2 over their quarters: features that say
    where something is, and four times as many."""
    partial: int = 1
    """Operations run on one of so many equal parts of the channels (PC-DARTS); 1 is all."""
    trunk: str = ""
    """Pretrained trunk in the stem's place: "efficientnet-lite0", or empty for none."""
    taps: tuple[int, int] = (10, 15)
    """Blocks of the trunk whose outputs are the first cell's inputs; it ends with the second."""

    def __post_init__(self) -> None:
        checks = (
            ("input_channels", self.input_channels in (1, 3), "must be 1 (grey) or 3 (RGB)"),
            ("ops", len(set(self.ops)) == len(self.ops) > 0, "must be distinct names, one or more"),
            ("channels", 1 <= len(self.channels) <= 20, "must name 1 to 20 cells"),
            ("channels", all(2 <= c <= 512 for c in self.channels), "must each be 2 to 512"),
            (
                "reductions",
                all(0 <= r < self.cells for r in self.reductions),
                "must be indices of cells",
            ),
            ("nodes", 1 <= self.nodes <= 6, "must lie in 1 to 6"),
            ("stem_channels", 1 <= len(self.stem_channels) <= 4, "must name 1 to 4 convolutions"),
            (
                "stem_channels",
                all(1 <= c <= 1024 for c in self.stem_channels),
                "must each lie in 1 to 1024",
            ),
            ("partial", 1 <= self.partial <= 16, "must lie in 1 to 16"),
            (
                "partial",
                self.partial < 1 or all(c % self.partial == 0 for c in self.channels),
                "must divide every width",
            ),
            ("grid", self.grid in (1, 2), "must be 1 or 2"),
            ("stem_stride", self.stem_stride in (1, 2, 4), "must be 1, 2 or 4"),
            ("trunk", self.trunk in ("", *TRUNKS), f"must be empty or one of {', '.join(TRUNKS)}"),
            (
                "stem_channels",
                self._stem_fits,
                "and stem_stride have no meaning beside a trunk: leave them out",
            ),
            ("taps", self._taps_fit, "must be two blocks, of one resolution or one halving apart"),
            ("input_channels", not self.trunk or self.input_channels == 3, "must be 3 for a trunk"),
        )
        bad = [
            Violation(f"space.{name}", "OPTION_OUT_OF_RANGE", what)
            for name, ok, what in checks
            if not ok
        ]
        if bad:
            raise InvalidInput(tuple(bad))

    @property
    def _stem_fits(self) -> bool:
        stem = SearchSpace.stem_channels, SearchSpace.stem_stride
        return not self.trunk or (self.stem_channels, self.stem_stride) == stem

    @property
    def _taps_fit(self) -> bool:
        blocks, (first, second) = TRUNKS.get(self.trunk, ()), self.taps
        if not blocks:
            return True
        fitting = 0 <= first <= second < len(blocks)
        return fitting and blocks[second].reduced <= 2 * blocks[first].reduced

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.channels)

    @property
    def features(self) -> int:
        """Length of the feature vector that the head sees."""
        return self.nodes * self.channels[-1] * self.grid**2

    def sides(self, size: int) -> tuple[int, ...]:
        """Of an image of this side: those of what enters the first cell and of what leaves each."""
        blocks = TRUNKS.get(self.trunk, ())
        side = size // blocks[self.taps[1]].reduced if blocks else -(-size // self.stem_stride)
        found = [side]
        for index in range(self.cells):
            side = -(-side // 2) if index in self.reductions else side
            found.append(side)
        return tuple(found)
