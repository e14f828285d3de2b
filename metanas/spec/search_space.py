"""The search space: the sizes of a supernet, as data of its checkpoint."""

from dataclasses import dataclass
from typing import Annotated

from metanas.spec.trunk_plans import TRUNKS, BlockPlan
from metanas.util.fields import Natural, OneOf, Range, check, require


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The sizes of a supernet."""

    input_channels: Annotated[int, OneOf((1, 3))]
    """1 for grey images, 3 for RGB."""
    ops: tuple[str, ...]
    """Names of the candidate operations on every edge."""
    channels: tuple[Annotated[int, Range(2, 512)], ...]
    """Width of each cell; a cell's output has `nodes` times as many channels. It may be empty
    behind a trunk."""
    reductions: tuple[Natural, ...]
    """Indices of the cells that halve the resolution."""
    nodes: Annotated[int, Range(1, 6)] = 3
    """Intermediate nodes of a cell."""
    stem_channels: tuple[Annotated[int, Range(1, 1024)], ...] = (48,)
    """Output channels of the convolutions of the stem. The last one has the stride. A convolution
    before it works at full resolution: it costs little and keeps the finest strokes."""
    stem_stride: Annotated[int, OneOf((1, 2, 4))] = 1
    """Stride of the last convolution of the stem."""
    grid: Annotated[int, OneOf((1, 2))] = 1
    """The last maps are averaged as a whole, or with 2 in quarters. Quarters keep positions and
    give four times the features."""
    unit: bool = False
    """The features of the cells are scaled to length one, as those of a trunk always are. The ridge
    head needs it where networks are joined."""
    partial: Annotated[int, Range(1, 16)] = 1
    """Number of equal parts of the channels; operations run on one part (PC-DARTS)."""
    trunk: Annotated[str, OneOf(("", *TRUNKS))] = ""
    """Pretrained trunk in place of the stem; empty for none."""
    taps: tuple[int, int] = (10, 15)
    """Blocks of the trunk whose outputs enter the first cell."""
    pools: tuple[tuple[Natural, Annotated[int, OneOf((1, 2))]], ...] = ()
    """Features of the trunk beside those of the cells: pairs of a block and a grid, as in `grid`.
    Empty for the mean of the second tap. The trunk ends with the last block in use."""

    def __post_init__(self) -> None:
        check(self)
        require(
            ("ops", len(set(self.ops)) == len(self.ops) > 0, "must be distinct names, one or more"),
            ("channels", self.cells <= 20, "must name at most 20 cells"),
            ("channels", self.cells > 0 or bool(self.trunk), "must name a cell without a trunk"),
            (
                "reductions",
                all(r < self.cells for r in self.reductions),
                "must be indices of cells",
            ),
            ("stem_channels", 1 <= len(self.stem_channels) <= 4, "must name 1 to 4 convolutions"),
            (
                "partial",
                not any(c % self.partial for c in self.channels),
                "must divide every width",
            ),
            (
                "stem_channels",
                self._stem_fits,
                "and stem_stride have no meaning beside a trunk: leave them out",
            ),
            ("taps", self._taps_fit, "must be two blocks, of one resolution or one halving apart"),
            ("pools", self._pools_fit, "must be blocks of a trunk"),
            ("input_channels", not self.trunk or self.input_channels == 3, "must be 3 for a trunk"),
        )

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
    def _pools_fit(self) -> bool:
        return all(block < len(TRUNKS.get(self.trunk, ())) for block, _ in self.pools)

    @property
    def trunk_pools(self) -> tuple[tuple[int, int], ...]:
        """Block and grid of each part of the trunk's features, if there is a trunk."""
        return (self.pools or ((self.taps[1], 1),)) if self.trunk else ()

    @property
    def trunk_blocks(self) -> tuple[BlockPlan, ...]:
        """Blocks of the trunk up to the last in use, if there is a trunk."""
        used = [block for block, _ in self.trunk_pools] + [self.taps[1]] * bool(self.cells)
        return TRUNKS[self.trunk][: max(used) + 1] if self.trunk else ()

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.channels)

    @property
    def unit_features(self) -> bool:
        """True if the features that enter the head have length one, or are parts of length one."""
        return self.unit or bool(self.trunk)

    @property
    def features(self) -> int:
        """Length of the feature vector that enters the head, those of a trunk included."""
        cells = self.nodes * self.channels[-1] * self.grid**2 if self.cells else 0
        return cells + sum(
            self.trunk_blocks[block].channels * grid**2 for block, grid in self.trunk_pools
        )

    def sides(self, size: int) -> tuple[int, ...]:
        """Return the sides of the maps that enter the first cell and leave each cell.

        size: side of the image in pixels.
        """
        blocks = TRUNKS.get(self.trunk, ())
        side = size // blocks[self.taps[1]].reduced if blocks else -(-size // self.stem_stride)
        sides = [side]
        for index in range(self.cells):
            side = -(-side // 2) if index in self.reductions else side
            sides.append(side)
        return tuple(sides)
