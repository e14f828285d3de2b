"""The table of the runtimes in docs/deploy.md, made of `results.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

Results = Mapping[str, Mapping[str, str]]
"""Runtime -> form of the file -> `yes`, `no`, or the networks that it does not run."""
RESULTS: Results = json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))


def table(results: Results) -> str:
    """Make the table; a row for each runtime."""
    forms = list(next(iter(results.values())))
    lines = [["runtime", *forms], ["---"] * (1 + len(forms))]
    lines += [[runtime, *cells.values()] for runtime, cells in results.items()]
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


if __name__ == "__main__":
    print(table(RESULTS))
