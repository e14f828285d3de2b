"""The studio in Chromium, as a person uses it: from images to a file, and what can go wrong."""

import base64
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.running import DIGITS, ROOT
from tests.server.studio_calls import Studio, studio_of

CHROMIUM = shutil.which("chromium")
CLASSES = ("1", "4", "7")
SECONDS = 120
SHOTS = ROOT / "build" / "studio"
"""Folder of the screenshots, which stay after the tests."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
DROP = """([name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  transfer.items.add(new File([bytes], name));
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
  document.querySelector('main').dispatchEvent(new DragEvent('drop', options));
}"""
"""Drop a file on the page."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses a sandbox to root
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags, *root])
        yield launched
        launched.close()


@pytest.fixture
def studio(checkpoints: Path, tmp_path: Path) -> Iterator[Studio]:
    with studio_of(checkpoints, tmp_path / "data", "--stop-seconds=1") as running:
        yield running


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """The page, which must not log an error and load nothing from elsewhere."""
    context = browser.new_context(viewport={"width": 1360, "height": 900}, permissions=["camera"])
    opened = context.new_page()
    opened.set_default_timeout(1000 * SECONDS)
    expect.set_options(timeout=1000 * SECONDS)
    faults, asked = list[str](), list[str]()
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(f"http://{studio.address}/")
    yield opened
    context.close()
    assert faults == []
    own = (f"http://{studio.address}/", f"blob:http://{studio.address}/", "data:")
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with folders of images."""
    for name in CLASSES:
        shutil.copytree(DIGITS / "support" / name, tmp_path / "photos" / name)
    return tmp_path / "photos"


def choose(page: Page, button: str, *paths: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button, exact=True).click()
    chooser.value.set_files(list(paths) if len(paths) > 1 else paths[0])


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def adapt(page: Page) -> None:
    page.get_by_label("Start from").select_option("grey")
    page.get_by_role("button", name="Adapt", exact=False).first.click()
    expect(page.locator(".look .check")).not_to_be_empty()
    expect(page.locator(".agree, .suspects")).to_be_visible()


def open_options(page: Page) -> None:
    page.locator(".options summary").click()


def test_from_a_folder_to_a_file(page: Page, photos: Path, tmp_path: Path) -> None:
    shoot(page, "1-start")
    choose(page, "Choose a folder", photos)
    count = len(list(photos.rglob("*.png")))
    expect(page.locator(".thumb")).to_have_count(count)
    open_options(page)
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
    with page.expect_download() as download:
        page.get_by_role("button", name="model.onnx").click()
    path = tmp_path / "model.onnx"
    download.value.save_as(path)
    shown = page.locator(".digest code").text_content()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shown


def test_images_move_and_versions_stand_side_by_side(page: Page, photos: Path) -> None:
    choose(page, "Choose a folder", photos)
    open_options(page)
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


def test_a_zip_with_faults(page: Page, photos: Path) -> None:
    packed = io.BytesIO()
    twin = next((photos / "1").iterdir())
    blank = io.BytesIO()
    Image.new("L", (32, 32), 255).save(blank, "png")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in photos.rglob("*.png"):
            archive.write(path, path.relative_to(photos.parent))
        archive.write(twin, "photos/4/twin.png")
        archive.writestr("photos/4/blank.png", blank.getvalue())
        archive.writestr("photos/4/broken.jpg", b"no image")
        archive.writestr("__MACOSX/4/._x.png", b"no image")
    page.evaluate(DROP, ["photos.zip", base64.b64encode(packed.getvalue()).decode()])
    expect(page.locator(".notice")).to_contain_text("1 image could not be read: broken.jpg")
    expect(page.locator(".thumb.duplicate")).to_have_count(2)
    expect(page.locator(".thumb.blank")).to_have_count(1)
    shoot(page, "4-faults")
    page.evaluate(DROP, ["broken.zip", base64.b64encode(b"no zip").decode()])
    expect(page.get_by_text("The zip file cannot be read")).to_be_visible()


def test_a_server_that_stops_in_the_middle(page: Page, studio: Studio, photos: Path) -> None:
    choose(page, "Choose a folder", photos)
    expect(page.get_by_role("button", name="Adapt", exact=True)).to_be_enabled()
    studio.server.process.terminate()
    studio.server.process.wait(timeout=60)
    page.get_by_role("button", name="Adapt", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(page.get_by_role("button", name="Adapt", exact=True)).to_be_enabled()
    shoot(page, "5-stopped")


def test_images_from_the_webcam(page: Page) -> None:
    page.get_by_role("button", name="Start with empty classes").click()
    for name in ("Class 1", "Class 2"):
        page.get_by_role("button", name=f"Collect images of {name}").click()
        hold = page.get_by_role("button", name="Hold to collect")
        hold.hover()
        page.mouse.down()
        expect(page.locator("dialog p")).to_contain_text("3 images")
        page.mouse.up()
        page.get_by_role("button", name="Done").click()
    open_options(page)
    adapt(page)
    page.locator(".try").get_by_role("button", name="Webcam").click()
    expect(page.locator(".live .meter")).to_have_count(2)
    expect(page.locator(".live .time")).to_contain_text("a second")
    shoot(page, "6-webcam")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(page: Page, photos: Path, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 375, "height": 800})
    choose(page, "Choose a folder", photos)
    open_options(page)
    adapt(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    shoot(page, f"7-narrow-{scheme}")


def test_the_keyboard_reaches_everything(page: Page, photos: Path) -> None:
    choose(page, "Choose a folder", photos)
    open_options(page)
    adapt(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select')]
          .filter((each) => each.checkVisibility() && each.tabIndex >= 0)
          .filter((each) => !(each.getAttribute('aria-label') || each.textContent.trim()
            || each.labels?.length)).map((each) => each.outerHTML)"""
    )
    assert nameless == []
    page.locator(".thumb").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
