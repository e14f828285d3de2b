"""Adapt in process, without a server: a folder of images in, an ONNX model out.

    python examples/in_process.py examples/digits/support model.onnx

The folder holds one sub-folder of images for each class, named by its label.
"""

import argparse
from pathlib import Path

import metanas

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("support", type=Path, help="folder of the support set")
    parser.add_argument("model", type=Path, help="file to write")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "meta_checkpoints")
    options = parser.parse_args()
    if options.model.exists():
        parser.error(f"{options.model} exists; name another file")
    try:
        support = metanas.read_folder(options.support)
        space = metanas.load_universal(options.checkpoints)
        model = metanas.adapt(space, support, seed=0)
    except metanas.MetanasError as error:
        parser.error(str(error))
    options.model.write_bytes(model.onnx)
    print(f"{options.model}: {len(model.onnx) / 1e6:.2f} MB, classes {', '.join(model.labels)}")
    if estimate := model.report.leave_one_out:
        print(f"estimated accuracy {estimate.low:.0%} to {estimate.high:.0%}")


if __name__ == "__main__":
    main()
