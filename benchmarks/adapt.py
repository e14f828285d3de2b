"""Seconds of every stage of an adaptation, in process, on the digits of `examples/`.

    python -m benchmarks.adapt [--checkpoint FOLDER] [--runs 20] [--threads 1] [--out FILE.json]

Prints medians over the runs after one warm-up, with the fastest and the slowest; writes every run.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.pipeline import make_model
from metanas.task import Example

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits" / "support"
SHAPES = ((5, 1), (5, 5), (10, 1), (10, 5))
RESULTS = ROOT / "benchmarks" / "results" / "local"
STAGES = ("decode", "adapt", "prune", "tune", "export", "check", "report")

Run = dict[str, float]


def support(ways: int, shots: int) -> list[Example]:
    """The first images of the first digits."""
    return [
        Example(folder.name, path.read_bytes())
        for folder in sorted(DIGITS.iterdir())[:ways]
        for path in sorted(folder.iterdir())[:shots]
    ]


def measure(checkpoint: Checkpoint, examples: list[Example], runs: int) -> list[Run]:
    """Seconds of each stage and in all, run by run."""
    found = []
    for _ in range(runs + 1):
        start = perf_counter()
        model = make_model(checkpoint, examples)
        found.append({**model.report.seconds, "whole": perf_counter() - start})
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "meta_checkpoints" / "omniglot")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "adapt.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    results = {}
    print(f"{'milliseconds':16}" + "".join(f"{name:>9}" for name in (*STAGES, "whole")), "  range")
    for ways, shots in SHAPES:
        runs = measure(checkpoint, support(ways, shots), options.runs)
        results[f"{ways}-way {shots}-shot"] = runs
        medians = [1000 * median(run[name] for run in runs) for name in (*STAGES, "whole")]
        whole = [1000 * run["whole"] for run in runs]
        figures = "".join(f"{value:9.1f}" for value in medians)
        print(
            f"{ways}-way {shots}-shot".ljust(16) + figures, f"  {min(whole):.0f}-{max(whole):.0f}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"threads": options.threads, "torch": torch.__version__, "runs": results}
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
