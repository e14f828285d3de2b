"""Make a model of each task in a folder, as one batch; the server adapts them together.

    python examples/batch.py tasks models --server 127.0.0.1:50051

Each task is a folder with one sub-folder of images for each class. A task whose model is there is
skipped, so the same command continues a batch that was stopped.
"""

import argparse
import sys
from pathlib import Path

from metanas_client import Adaptation, Client, ClientError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks")
    parser.add_argument("models", type=Path, help="folder to write TASK.onnx into")
    parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument(
        "--checkpoint", default="", metavar="NAME", help="default: chosen by images"
    )
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    running: dict[Path, Adaptation] = {}
    failed = 0
    with Client(options.server) as client:
        for task in sorted(path for path in options.tasks.iterdir() if path.is_dir()):
            model = options.models / f"{task.name}.onnx"
            try:
                if not model.exists():
                    running[model] = client.adapt(task, checkpoint=options.checkpoint, seed=0)
            except ClientError as error:
                failed += 1
                print(f"{task.name}: {error}", file=sys.stderr)
        for model, adaptation in running.items():
            try:
                print(adaptation.result().save(model))
            except ClientError as error:
                failed += 1
                print(f"{model.stem}: {error}", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
