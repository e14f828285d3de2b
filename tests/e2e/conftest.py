"""Fixtures of the end-to-end tests: a tiny checkpoint of each kind."""

from pathlib import Path

import pytest

from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained checkpoints: `colour` (RGB), `grey`, and `photo` behind a trunk."""
    root = tmp_path_factory.mktemp("checkpoints")
    options = AdaptConfig(steps=2, tuning_steps=1)
    make_checkpoint(root / "grey", channels=1, options=options)
    make_checkpoint(root / "colour", channels=3, options=options)
    make_checkpoint(root / "photo", channels=3, trunk=True, options=options)
    return root
