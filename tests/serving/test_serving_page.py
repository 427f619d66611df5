"""The page in a real browser: Chromium, named by RIVEGS_CHROMIUM or found on the PATH, driven by Playwright."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from http_client import Client
from PIL import Image
from pycocotools import mask as coco

from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample

pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
pytest.importorskip("prometheus_client", reason="of the extra serve")
from local_server import local_server
from playwright import sync_api

from rivegs_mllm.serving.limits import Limits

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
CHROMIUM = os.environ.get("RIVEGS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install one, or name it in RIVEGS_CHROMIUM")

FIELDS = ("knowledge", "entities", "expressions", "visible", "boxes", "masks")
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">" onload="window.hacked=3'
BOX = Box(30, 20, 150, 80)
MASKED = np.zeros((100, 200), np.uint8)
MASKED[10:60, 120:180] = 1


def system(samples: Sequence[Sample], wanted: tuple[str, ...], threshold: float | None) -> list[Prediction]:
    """Names the second word of each post, and says what is hostile wherever a model can say anything."""
    mask = Mask((100, 200), coco.encode(np.asfortranarray(MASKED))["counts"].decode())
    found = []
    for sample in samples:
        boxes, masks = ((BOX,), (mask,)) if sample.image and wanted == FIELDS else ((), ())
        entity = Entity(sample.tokens[1], "PER", (1, 2), HOSTILE, bool(boxes), 0.75, boxes, masks)
        strange = Entity(HOSTILE, HOSTILE, None, "", None, None)
        found.append(Prediction(sample.id, HOSTILE, (entity, strange), HOSTILE, (HOSTILE,)))
    return found


@pytest.fixture(scope="module")
def served() -> Iterator[Client]:
    with local_server(system, FIELDS, Limits(), 8) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, served):
    """Opens the page in a context of its own, and in the end looks at what went wrong there."""
    contexts, faults, asked = [], [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{served.url}/")
        page.wait_for_selector("#list button")
        return page

    yield open_page
    for context in contexts:
        assert context.pages[0].evaluate("window.hacked") is None
        context.close()
    assert [own for own in faults if "status of 413" not in own] == []
    assert all(url.startswith((f"{served.url}/", f"blob:{served.url}/", "data:")) for url in asked)


def picture() -> bytes:
    """Of 200 x 100 pixels upright, stored lying."""
    image = Image.new("RGB", (100, 200), "gray")
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_a_hostile_post_with_a_hostile_file_name(opened):
    page = opened(viewport={"width": 1200, "height": 900})
    page.fill("#text", f"\U0001f600 Ada {HOSTILE}")
    page.set_input_files(
        "#file", {"name": f"{HOSTILE.replace('/', '_')}.jpg", "mimeType": "image/jpeg", "buffer": picture()}
    )
    page.click("#ask")
    page.wait_for_selector("#result:not([hidden])")
    assert page.text_content("#status") == "2 entities."
    assert page.text_content("#said mark") == "Ada"
    assert HOSTILE in page.text_content("#said")
    assert HOSTILE in page.text_content("#chosen").replace("_script", "/script")
    assert page.locator("#entities li").count() == 2
    assert "in the picture, probability 0.75" in page.text_content("#entities")
    for part in ("#entities", "#knowledge", "#errors", "#raw"):
        assert HOSTILE in page.text_content(part), part
    page.wait_for_function("document.querySelector('#picture img').complete")
    shown = page.locator("#picture img").bounding_box()
    assert shown["width"] / shown["height"] == pytest.approx(2, rel=0.02), "upright"
    rect = page.locator("#picture rect:not(.back)").bounding_box()
    scale = shown["width"] / 200
    assert rect["x"] - shown["x"] == pytest.approx(BOX.xmin * scale, abs=4)
    assert rect["y"] - shown["y"] == pytest.approx(BOX.ymin * scale, abs=4)
    assert rect["width"] == pytest.approx((BOX.xmax - BOX.xmin) * scale, abs=8)


def test_masks_are_where_they_are(opened):
    page = opened()
    page.fill("#text", "Hello Ada")
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture()})
    page.click("#ask")
    page.wait_for_selector("#picture canvas")
    code = "own => [...own.getContext('2d').getImageData(0, 0, 200, 100).data].filter((_, at) => at % 4 === 3)"
    opacity = np.array(page.eval_on_selector("#picture canvas", code)).reshape(100, 200)
    assert ((opacity > 0) == MASKED.astype(bool)).all()
    page.click("summary >> nth=0")
    page.select_option("#last", "boxes")
    with page.expect_response("**/v1/ground"):
        page.click("#ask")
    page.wait_for_function("!document.querySelector('#picture canvas')")


def test_by_keyboard_alone(opened):
    page = opened()
    page.focus("#text")
    page.keyboard.type("Hello Ada")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "result"
    stops = []
    page.focus("#text")
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.slice(0, 9)"))
    assert "file" in stops
    assert "ask" in stops
    assert page.locator("#list button").first.text_content()[:9] in stops


@pytest.mark.parametrize("width", [320, 390])
def test_an_example_on_a_phone(opened, width):
    page = opened(viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    page.locator("#list button").first.tap()
    page.wait_for_selector("#picture rect")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.input_value("#text") == page.locator("#list button").first.text_content()


def test_what_the_server_refuses_is_said(opened):
    page = opened()
    page.fill("#text", "a " * 10_001)
    with page.expect_response("**/v1/ground"):
        page.click("#ask")
    page.wait_for_function("document.querySelector('#status').className === 'bad'")
    assert page.text_content("#status") == "text: 20,002 characters are more than 20,000"
