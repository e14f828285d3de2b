"""The studio in Chromium, as a person uses it: from images to a file."""

import hashlib
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import CLASSES
from tests.e2e.running import DIGITS
from tests.e2e.studio_pages import adapt, choose, shoot

pytestmark = pytest.mark.slow


def test_from_a_folder_to_a_file(page: Page, photos: Path, tmp_path: Path) -> None:
    shoot(page, "1-start")
    choose(page, "Choose a folder", photos)
    count = len(list(photos.rglob("*.png")))
    expect(page.locator(".thumb")).to_have_count(count)
    adapt(page)
    held = tmp_path / "held"
    for name in CLASSES:
        (held / name).mkdir(parents=True)
        for path in sorted((DIGITS / "query" / name).iterdir())[:2]:
            shutil.copy(path, held / name)
    choose(page, "Test folder", held)
    expect(page.locator(".answers .time")).to_have_count(6)
    expect(page.locator(".tested")).to_contain_text("of 6 right")
    shoot(page, "2-result")
    page.get_by_label("Form").select_option("half")
    with page.expect_download() as half:
        page.get_by_role("button", name="model.onnx").click()
    half.value.save_as(tmp_path / "half.onnx")
    page.get_by_label("Form").select_option("stored")
    with page.expect_download() as download:
        page.get_by_role("button", name="model.onnx").click()
    path = tmp_path / "model.onnx"
    download.value.save_as(path)
    shown = page.locator(".digest code").text_content()
    assert (tmp_path / "half.onnx").stat().st_size < path.stat().st_size
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shown


def test_images_move_and_versions_stand_side_by_side(page: Page, photos: Path) -> None:
    choose(page, "Choose a folder", photos)
    adapt(page)
    before = page.locator(".class .thumb").count()
    page.locator(".class .thumb").first.click()
    page.locator("dialog").get_by_label("Move to").select_option("7")
    page.locator("dialog").get_by_role("button", name="OK").click()
    expect(page.locator(".class .thumb")).to_have_count(before)
    expect(page.get_by_text("have changed since the last version")).to_be_visible()
    adapt(page)
    expect(page.locator(".versions tbody tr")).to_have_count(2)
    shoot(page, "3-versions")


def test_images_from_the_webcam(page: Page, photos: Path) -> None:
    page.get_by_role("button", name="Start with empty classes").click()
    page.get_by_role("button", name="Collect images of Class 1").click()
    page.get_by_role("button", name="Hold to collect").hover()
    page.mouse.down()
    expect(page.locator(".thumb")).not_to_have_count(0)
    page.mouse.up()
    page.get_by_role("button", name="Done").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add images to Class 2").click()
    chooser.value.set_files(sorted((photos / "7").iterdir()))
    adapt(page)
    page.locator(".try").get_by_role("button", name="Webcam").click()
    expect(page.locator(".live .meter")).to_have_count(2)
    expect(page.locator(".live .time")).to_contain_text("a second")
    shoot(page, "6-webcam")
