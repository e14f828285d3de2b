"""Make data/omniglot_28.npz, which configs/omniglot.toml trains on, of Omniglot's two archives.

    python examples/omniglot_npz.py images_background images_evaluation --out data/omniglot_28.npz

The archives are those of https://github.com/brendenlake/omniglot (MIT), unpacked: a folder for each
alphabet, in it one for each character, in it twenty drawings of 105×105, black on white. The split
is that of Vinyals et al. (2016): whole alphabets. Those that are in neither list below are its test
classes, which nothing here is to see.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 28
VAL = ["Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"]
# fmt: off
TRAIN = [
    "Alphabet_of_the_Magi", "Angelic", "Anglo-Saxon_Futhorc", "Arcadian", "Asomtavruli_(Georgian)",
    "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Balinese",
    "Blackfoot_(Canadian_Aboriginal_Syllabics)", "Braille", "Burmese_(Myanmar)", "Cyrillic",
    "Futurama", "Ge_ez", "Glagolitic", "Grantha", "Greek", "Gujarati", "Gurmukhi",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)", "Japanese_(hiragana)", "Japanese_(katakana)",
    "Korean", "Latin", "Malay_(Jawi_-_Arabic)", "N_Ko", "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Sanskrit", "Syriac_(Estrangelo)", "Tagalog", "Tifinagh",
]
# fmt: on


def ink(path: Path) -> NDArray[np.uint8]:
    """A drawing as (28, 28), ink 255 on 0."""
    with Image.open(path) as drawing:
        small = drawing.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="of alphabets")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists; name another file")
    found = {path.name: path for folder in options.folders for path in folder.iterdir()}
    if missing := sorted({*TRAIN, *VAL} - set(found)):
        parser.error(f"there is no alphabet {missing[0]}; unpack both archives and name both")
    characters = [each for name in sorted({*TRAIN, *VAL}) for each in sorted(found[name].iterdir())]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        options.out,
        images=np.stack([[ink(p) for p in sorted(each.glob("*.png"))] for each in characters]),
        class_name=[f"{each.parent.name}/{each.name}" for each in characters],
        alphabet=[each.parent.name for each in characters],
        split=["val" if each.parent.name in VAL else "train" for each in characters],
    )


if __name__ == "__main__":
    main()
