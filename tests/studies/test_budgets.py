"""Accuracy within budgets, beside fixed architectures."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.results import Results, load
from metanas.adaptation.universal import load_universal
from metanas.spec.universal import universal_json
from studies import budgets
from studies.budgets import LIMITS, OPTIONS, fixed_space, reports, tables
from tests.core.test_universal import write_space
from tests.studies.test_domains import images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_space(tmp_path_factory.mktemp("budgets"))
    np.savez(folder / "one.npz", images=images(6, 5), class_name=np.array(list("abcdef")))
    return folder


def test_a_fixed_architecture_is_that_of_each_task(folder: Path) -> None:
    space = load_universal(folder)
    for names in (("grey",), ("grey", "small")):
        fixed = fixed_space(space, names)
        for report in reports(fixed, 2, {}):
            assert set(report.architecture) == set(names)
    assert universal_json(space.universal) == (folder / "universal.json").read_text("utf-8")


def test_the_study_measures_budgets_and_fixed_architectures(folder: Path) -> None:
    out = folder / "out.json"
    given = [folder, "--data", folder, "--packs", "one", "--shapes", "3x2", "--out", out]
    given += ["--episodes", 2, "--queries", 2, "--requests", 1, "--runs", 1]
    assert budgets.main([str(each) for each in given]) == 0
    results = load(out)
    within, fixed = results.rows[: len(LIMITS)], results.rows[len(LIMITS) :]
    for row, (option, limit, title) in zip(within, LIMITS, strict=True):
        assert (row["option"], row["limit"], row["title"]) == (option, limit, title)
        assert len(row["costs"]) == len(row["means"]) == 1
    titles = [row["title"] for row in fixed]
    assert titles[:4] == ["small", "large", "frozen", "grey"]
    assert titles[4:] == ["small + grey", "large + grey", "frozen + grey"]
    assert all(set(row["sizes"]) == set(OPTIONS) for row in fixed)


def test_a_budget_is_compared_with_the_best_fixed_architecture_within_it() -> None:
    common = {"shape": "5x1", "data": ["a", "b"], "macs": [1e6, 3e6]}
    budget = {"title": "2 million", "option": "max_macs", "limit": 2e6, "costs": [1e6, 2.5e6]}
    rows = [{**common, **budget, "means": [0.5, 0.7]}]
    rows.append({**rows[0], "title": "1 million", "limit": 1e6})
    for title, macs, score in (("one", 1.5e6, 0.4), ("two", 2e6, 0.5), ("three", 3e6, 0.9)):
        sizes = {"max_macs": macs}
        rows.append({**common, "title": title, "sizes": sizes, "means": [score, score + 0.1]})
    lines = tables(Results("budgets", {}, rows))["5x1"].splitlines()
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert first[0] == "2 million"
    assert first[3:5] == ["1/2", "two"]
    assert second[4:] == ["none", ""]
