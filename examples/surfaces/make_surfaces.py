"""Cut the photographs of three surfaces into images to adapt to and images to test on.

`pip install scikit-image`, then `python make_surfaces.py`.
"""

from pathlib import Path

import skimage.data
from PIL import Image

TILE = 128  # pixels; each photograph has 512 x 512
SUPPORT_ROW = 3  # the bottom row of tiles; the query images come from the others


def main() -> None:
    """Write the images beside this file."""
    root = Path(__file__).parent
    for name in ("brick", "grass", "gravel"):
        photograph = getattr(skimage.data, name)()
        for row in range(4):
            for column in range(4):
                part = "support" if row == SUPPORT_ROW else "query"
                tile = photograph[
                    row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE
                ]
                path = root / part / name / f"{row}{column}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(tile).save(path, quality=90)


if __name__ == "__main__":
    main()
