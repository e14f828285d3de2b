"""Fixtures of the end-to-end tests: a tiny checkpoint of each kind, and the studio in a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from tests.e2e.running import DIGITS
from tests.e2e.studio_pages import open_page
from tests.server.studio_calls import Studio, studio_of

CLASSES = ("1", "4", "7")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained checkpoints: `colour` (RGB), `grey`, and `photo` behind a trunk."""
    root = tmp_path_factory.mktemp("checkpoints")
    options = AdaptConfig(steps=2, tuning_steps=1)
    make_checkpoint(root / "grey", channels=1, options=options)
    make_checkpoint(root / "colour", channels=3, options=options)
    make_checkpoint(root / "photo", channels=3, trunk=True, options=options)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium with a fake webcam."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium; on Debian: apt-get install chromium")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses a sandbox to root
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=[*flags, *root])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def studio(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server with a studio, which no test may stop."""
    with studio_of(checkpoints, tmp_path_factory.mktemp("studio") / "data") as running:
        yield running


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """The page, which must not log an error and load nothing from elsewhere."""
    faults = list[str]()
    opened = open_page(browser, studio.address, faults)
    yield opened
    opened.context.close()
    assert faults == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with folders of images."""
    for name in CLASSES:
        shutil.copytree(DIGITS / "support" / name, tmp_path / "photos" / name)
    return tmp_path / "photos"
