"""The studio in Chromium: what its tests have in common."""

import base64
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.e2e.running import ROOT

SECONDS = 120
SHOTS = ROOT / "build" / "studio"
"""Folder of the screenshots, which stay after the tests."""
DROP = """([name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  transfer.items.add(new File([bytes], name));
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
  document.querySelector('main').dispatchEvent(new DragEvent('drop', options));
}"""


def open_page(browser: Browser, address: str, faults: list[str]) -> Page:
    """Open the studio; errors of its scripts and requests elsewhere go to `faults`."""
    own = (f"http://{address}/", f"blob:http://{address}/", "data:")
    context = browser.new_context(
        viewport={"width": 1360, "height": 900}, permissions=["camera"], reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(1000 * SECONDS)
    expect.set_options(timeout=1000 * SECONDS)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(own) else faults.append(sent.url))
    page.goto(f"http://{address}/")
    return page


def choose(page: Page, button: str, *paths: Path) -> None:
    """Choose files, or a folder, by a button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button, exact=True).click()
    chooser.value.set_files(list(paths) if len(paths) > 1 else paths[0])


def drop(page: Page, name: str, data: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(DROP, [name, base64.b64encode(data).decode()])


def shoot(page: Page, name: str) -> None:
    """Keep a screenshot."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def adapt(page: Page, checkpoint: str = "grey") -> None:
    """Adapt and wait for the comparison with the images."""
    start = page.get_by_role("button", name="Adapt", exact=False).first
    expect(start).to_be_enabled()
    page.locator("details.options").evaluate_all("all => all.forEach((each) => each.open = true)")
    if checkpoint:
        page.get_by_label("Start from").select_option(checkpoint)
    start.click()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.locator(".agree, .suspects")).to_be_visible()
