"""The table of the runtimes in docs/deploy.md, made of `results.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

Results = Mapping[str, Mapping[str, bool]]
"""Runtime -> case -> it gives the probabilities of torch at every size."""
RESULTS: Results = json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))


def table(results: Results) -> str:
    """Make the table; a row for each runtime."""
    cases = list(next(iter(results.values())))
    lines = [["runtime", *cases], ["---"] * (1 + len(cases))]
    lines += [
        [runtime, *("yes" if works[case] else "no" for case in cases)]
        for runtime, works in results.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table(RESULTS))
