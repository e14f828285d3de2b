"""Write the digit images beside this file, from the copy of the data set inside scikit-learn.

The originals are 8×8 counts of ink from 0 to 16, up to the edge. Here they are 32×32, dark ink on
white, with a margin of one original pixel.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SUPPORT, QUERY, SIDE = 5, 10, 32


def picture(counts: NDArray[np.float64]) -> Image.Image:
    """One 8×8 original as a grey image, enlarged by a bicubic filter."""
    ink = np.rint(np.pad(counts, 1) * (255 / 16)).astype(np.uint8)
    paper = 255 - ink
    return Image.fromarray(paper).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def main(folder: Path) -> None:
    digits = load_digits()
    for digit in range(10):
        members = np.flatnonzero(digits.target == digit)
        # evenly over the whole set, and nothing picked by hand
        chosen = members[np.linspace(0, len(members) - 1, SUPPORT + QUERY).astype(int)]
        for place, index in enumerate(chosen):
            part = "support" if place % 3 == 0 else "query"
            path = folder / part / str(digit) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(digits.images[index]).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(__file__).parent)
