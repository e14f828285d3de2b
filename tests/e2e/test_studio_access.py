"""The studio by keyboard, by screen reader, on a narrow screen, and in both colour schemes."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from metanas_server.callers.tokens import Role, create
from tests.e2e.studio_pages import adapt, choose, open_page, shoot
from tests.server.studio_calls import studio_of

AXE = "axe-core@4.10.3"
GRAVE = """async () => {
  const found = await axe.run();
  const grave = found.violations.filter((each) => ['serious', 'critical'].includes(each.impact));
  return grave.map((each) => [each.id, each.nodes[0].html, each.nodes[0].failureSummary]);
}"""
"""Return the serious and critical findings."""

pytestmark = pytest.mark.slow
Check = Callable[[Page], None]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """A function that finds no serious fault of accessibility in a page, light and dark."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which comes with Node.js")
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", AXE]
    subprocess.run(command, cwd=folder, check=True)
    script = (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")

    def check(page: Page) -> None:
        page.evaluate(f"{script};0")
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        dark = page.evaluate(GRAVE)
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        assert dark + page.evaluate(GRAVE) == []

    return check


def unfold(page: Page) -> None:
    page.locator("details").evaluate_all("all => all.forEach((each) => each.open = true)")


def test_no_stage_has_a_serious_fault(page: Page, photos: Path, check: Check) -> None:
    expect(page.get_by_role("button", name="Choose a folder")).to_be_visible()
    check(page)
    (photos / "1" / "broken.png").write_bytes(b"no image")
    shutil.copy(next((photos / "1").glob("*.png")), photos / "1" / "twin.png")
    choose(page, "Choose a folder", photos)
    expect(page.locator(".notice")).to_be_visible()
    unfold(page)
    check(page)
    adapt(page)
    adapt(page)
    choose(page, "Test folder", photos / "7")
    expect(page.locator(".answers li")).to_have_count(len(list((photos / "7").iterdir())))
    page.locator(".try").get_by_role("button", name="Webcam").click()
    expect(page.locator(".live .time")).to_contain_text("a second")
    unfold(page)
    check(page)
    page.locator(".try").get_by_role("button", name="Stop").click()
    page.locator(".thumb.duplicate").first.click()
    expect(page.locator("dialog img")).to_be_visible()
    check(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Collect images of 1").click()
    expect(page.get_by_role("button", name="Hold to collect")).to_be_visible()
    check(page)


def test_a_running_adaptation_and_the_token(
    browser: Browser, checkpoints: Path, tmp_path: Path, photos: Path, check: Check
) -> None:
    token = create(tmp_path / "tokens", "person", Role.USE)
    flags = (f"--token-file={tmp_path / 'tokens'}", "--max-adaptations-per-minute=1")
    with studio_of(checkpoints, tmp_path / "data", *flags) as running:
        page = open_page(browser, running.address, faults := list[str]())
        page.get_by_label("Token", exact=True).fill(token)
        check(page)
        page.get_by_role("button", name="Continue").click()
        choose(page, "Choose a folder", photos)
        adapt(page)
        page.get_by_role("button", name="Adapt again").click()
        expect(page.locator(".stages .active")).to_contain_text("The server is full")
        check(page)
        page.context.close()
        assert faults == []


def test_the_keyboard_reaches_everything(page: Page, photos: Path) -> None:
    choose(page, "Choose a folder", photos)
    adapt(page)
    page.locator(".thumb").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.get_by_role("link", name="Take").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="model.onnx")).to_be_focused()
    expect(page.get_by_role("button", name="model.onnx")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(page: Page, photos: Path, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 375, "height": 800})
    choose(page, "Choose a folder", photos)
    adapt(page)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    shoot(page, f"7-narrow-{scheme}")
