"""The studio when something goes wrong: odd files, a full queue, a lost server, a wrong token."""

import io
import signal
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, expect

from metanas_server.callers.tokens import Role, create
from tests.e2e.running import DIGITS
from tests.e2e.studio_pages import adapt, choose, drop, open_page, shoot
from tests.server.studio_calls import Studio, studio_of, support

pytestmark = pytest.mark.slow
ADAPT = "Adapt"


@pytest.fixture
def own(checkpoints: Path, tmp_path: Path) -> Iterator[Studio]:
    """A server for one test, which may stop it."""
    flags = ("--stop-seconds=1", "--max-queue=1", "--max-stack=1")
    with studio_of(checkpoints, tmp_path / "data", *flags) as running:
        yield running


def packed(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return data.getvalue()


def png(colour: int, size: int = 32) -> bytes:
    data = io.BytesIO()
    image = Image.new("L", (size, size), 255)
    image.paste(colour, (0, 0, size // 2, size // 3 + colour // 32))
    image.save(data, "png")
    return data.getvalue()


def blank() -> bytes:
    data = io.BytesIO()
    Image.new("L", (32, 32), 255).save(data, "png")
    return data.getvalue()


def test_a_zip_with_faults(page: Page) -> None:
    files = {f"photos/{name}/{i}.png": png(20 * i + int(name)) for name in "14" for i in range(3)}
    twin = files["photos/1/0.png"]
    faults = {"4/twin.png": twin, "4/blank.png": blank(), "4/broken.jpg": b"no", "4/x.heic": b"no"}
    litter = {"__MACOSX/4/._x.png": b"no", "photos/4/@eaDir/x.png": b"no", "photos/4/.x.png": b"no"}
    faulty = {f"photos/{name}": data for name, data in faults.items()}
    drop(page, "photos.zip", packed({**files, **faulty, **litter, "photos/cover.png": png(3)}))
    notice = page.locator(".notice")
    expect(notice).to_contain_text("2 images could not be read: broken.jpg, x.heic.")
    expect(notice).to_contain_text("HEIC")
    expect(notice).to_contain_text("1 image beside the folders of the classes was left out: cover")
    expect(page.locator(".thumb.duplicate")).to_have_count(2)
    expect(page.get_by_text("The same image is in 1 and in 4. Remove one")).to_be_visible()
    expect(page.locator(".thumb.blank")).to_have_count(1)
    expect(page.get_by_label("Class name")).to_have_count(2)
    shoot(page, "4-faults")
    drop(page, "broken.zip", b"no zip")
    expect(page.get_by_text("The zip file cannot be read")).to_be_visible()


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (("data/train/cat/1.png", "data/val/cat/2.png", "data/train/dog/3.png"), ["cat", "dog"]),
        (("data/cat/1.png", "data/cat/edited/2.png", "data/dog/3.png"), ["cat", "dog"]),
        (("cat/1.png", "cat/2.png"), ["cat"]),
        (("cat/1.png", "cat/edited/2.png"), ["cat"]),
        (("1.png", "2.png"), ["Images"]),
        (("1.png", "cat/2.png"), ["Images", "cat"]),
        (("data\\cat\\1.png", "data\\dog\\2.png"), ["cat", "dog"]),
        (("Ka\u0308se/1.png", "Hüte/2.png"), ["Hüte", "Käse"]),
    ],
)
def test_folders_of_a_zip(page: Page, paths: tuple[str, ...], classes: list[str]) -> None:
    drop(page, "odd.zip", packed({path: png(40 * i) for i, path in enumerate(paths)}))
    expect(page.locator(".thumb")).to_have_count(len(paths))
    names = page.get_by_label("Class name")
    assert sorted(each.input_value() for each in names.all()) == classes


def test_an_image_that_the_server_refuses(page: Page) -> None:
    files = {f"{name}/{i}.png": png(30 * i + int(name)) for name in "14" for i in range(2)}
    drop(page, "small.zip", packed({**files, "4/tiny.png": png(9, size=1)}))
    expect(page.locator(".thumb")).to_have_count(5)
    page.get_by_label("Start from").evaluate("each => each.value = 'checkpoints/grey'")
    page.get_by_role("button", name=ADAPT, exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("each side needs at least 2")
    expect(page.locator(".thumb.bad")).to_have_count(1)
    expect(page.get_by_role("button", name=ADAPT, exact=True)).to_be_enabled()


def test_a_full_queue(browser: Browser, own: Studio, photos: Path, tmp_path: Path) -> None:
    own.server.signal_workers(signal.SIGSTOP)
    first = own.create(support(tmp_path)).json["name"]
    while own.call(f"/api/{first}").json["state"] == "ADAPTATION_STATE_QUEUED":
        pass
    assert own.create(support(tmp_path), seed=1).status == 201
    page = open_page(browser, own.address, faults := list[str]())
    choose(page, "Choose a folder", photos)
    page.get_by_role("button", name=ADAPT, exact=True).click()
    expect(page.locator(".stages .active")).to_contain_text("The server is full")
    shoot(page, "8-full")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The adaptation was cancelled")).to_be_visible()
    page.get_by_role("button", name=ADAPT, exact=True).click()
    expect(page.locator(".stages .active")).to_contain_text("The server is full")
    own.server.signal_workers(signal.SIGCONT)
    expect(page.locator(".look .facts")).to_be_visible()
    page.context.close()
    assert faults == []


def test_a_server_that_stops_in_the_middle(
    browser: Browser, own: Studio, checkpoints: Path, photos: Path, tmp_path: Path
) -> None:
    page = open_page(browser, own.address, faults := list[str]())
    choose(page, "Choose a folder", photos)
    own.server.signal_workers(signal.SIGSTOP)
    with page.expect_response("**/api/adaptations/*/events*"):  # the server has accepted it
        page.get_by_role("button", name=ADAPT, exact=True).click()
    own.server.kill()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    shoot(page, "5-stopped")
    with studio_of(checkpoints, tmp_path / "data", f"--studio={own.address}"):
        expect(page.locator(".look .facts")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Adapt again").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(page.get_by_role("button", name="Adapt again")).to_be_enabled()
    page.context.close()
    assert faults == []


def test_a_server_with_tokens(
    browser: Browser, checkpoints: Path, photos: Path, tmp_path: Path
) -> None:
    token = create(tmp_path / "tokens", "person", Role.USE)
    flags = (f"--token-file={tmp_path / 'tokens'}",)
    with studio_of(checkpoints, tmp_path / "data", *flags) as running:
        page = open_page(browser, running.address, faults := list[str]())
        for entered, answer in (("wrong", "does not know this token"), (token, "")):
            page.get_by_label("Token", exact=True).fill(entered)
            page.get_by_role("button", name="Continue").click()
            if answer:
                expect(page.get_by_role("alert")).to_contain_text(answer)
        choose(page, "Choose a folder", photos)
        adapt(page)
        page.context.close()
        assert faults == []


def test_a_reload_asks_first(page: Page, photos: Path) -> None:
    choose(page, "Choose a folder", photos)
    expect(page.locator(".thumb")).to_have_count(len(list(photos.rglob("*.png"))))
    asked = list[str]()

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.evaluate("setTimeout(() => location.reload())")
    while not asked:
        page.wait_for_timeout(50)
    assert asked == ["beforeunload"]
    assert page.locator(".thumb").count() > 0


def test_a_thousand_images(page: Page, tmp_path: Path) -> None:
    queries = sorted((DIGITS / "query").rglob("*.png"))
    for i in range(1000):
        source = queries[i % len(queries)]
        folder = tmp_path / "many" / f"class {i % 20}"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.open(source)
        image.putpixel((i % 20, i // 20 % 20), i % 251)
        image.save(folder / f"{i}.png")
    choose(page, "Choose a folder", tmp_path / "many")
    expect(page.locator(".thumb")).to_have_count(1000)
    expect(page.locator(".reading")).to_be_hidden()
    decoded = page.locator(".thumb img").evaluate_all("all => all.filter((e) => e.complete).length")
    assert 0 < decoded < 1000
    adapt(page)
    shoot(page, "9-thousand")
