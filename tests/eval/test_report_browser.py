"""The page in a real browser: Chromium, named by RIVEGS_CHROMIUM or found on the PATH, driven by Playwright."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from eval.report.page import write_report
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
CHROMIUM = os.environ.get("RIVEGS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install one, or name it in RIVEGS_CHROMIUM")

TYPE_COLOURS = """() => [0, 1, 2].flatMap((ring) => Array.from({length: 36}, (_, step) => {
    const one = document.createElement("span");
    one.className = "type";
    one.style.setProperty("--hue", 10 * step);
    one.style.setProperty("--ring", ring);
    document.body.append(one);
    const brush = document.createElement("canvas").getContext("2d");
    brush.fillStyle = getComputedStyle(one).backgroundColor;
    brush.fillRect(0, 0, 1, 1);
    const rgb = [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
    return "#" + rgb.map((level) => level.toString(16).padStart(2, "0")).join("");
}))"""
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">" onload="window.hacked=3'
BOX = Box(20, 30, 120, 130)


def posts() -> list[Sample]:
    mask = np.zeros((200, 300), np.uint8)
    mask[40:120, 30:110] = 1
    run = Mask((200, 300), coco.encode(np.asfortranarray(mask))["counts"].decode())
    ada = Entity("Ada Byron", "PER", (1, 3), "a woman in blue", True, boxes=(BOX,), masks=(run,))
    acme = Entity("Acme", "ORG", (4, 5), "a red logo", False)
    tokens = ("RT", "Ada", "Byron", "of", "Acme", "x" * 200)
    return [
        Sample(f"post-{index:02}", tokens, f"{index}.jpg", (300, 200), (ada, acme), ("Ada wrote programs.",), subset)
        for index, subset in enumerate(["seen"] * 20 + ["unseen"] * 10)
    ]


def systems(gold: list[Sample]) -> dict[str, list[Prediction]]:
    """A misses Ada in every third post; B boxes Acme in the first five, and says what is hostile in post 1."""
    before, after = [], []
    for index, sample in enumerate(gold):
        ada, acme = (replace(entity, visible_score=0.9 if entity.visible else 0.2) for entity in sample.entities)
        before.append(Prediction(sample.id, entities=(acme,) if index % 3 == 0 else (ada, acme), raw="before says"))
        if index < 5:
            acme = replace(acme, visible=True, visible_score=0.7, boxes=(Box(150, 20, 280, 90),))
        strange = (Entity(HOSTILE, HOSTILE, None, HOSTILE, True, boxes=(BOX,)),) if index == 1 else ()
        raw = HOSTILE if strange else "after says"
        after.append(Prediction(sample.id, raw, (ada, acme, *strange), raw, (HOSTILE,) if strange else ()))
    return {"before": before, HOSTILE: after}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    gold = posts()
    gold[0] = replace(gold[0], tokens=(*gold[0].tokens, HOSTILE.replace(" ", "")), knowledge=(HOSTILE,))
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for sample in gold:
        Image.fromarray(noise).resize((300, 200)).save(folder / sample.image)
    write_report(folder / "report.html", gold, systems(gold), folder, limit=14)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, report: Path):
    """Opens the page in a context of its own, and in the end looks at what went wrong there."""
    contexts, faults = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    asked = []
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert all(url.startswith(("data:image/jpeg;base64,", report.as_uri())) for url in asked)


def shown(page) -> list[str]:
    return page.eval_on_selector_all(".post .id", "all => all.map(one => one.textContent)")


def count(page) -> str:
    return page.text_content("#count")


def focused(page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id")


def test_it_opens_on_the_posts_that_cost_most(opened):
    page = opened()
    assert count(page) == "1 to 12 of 30 posts"
    costs = [
        [float(cost) for cost in re.findall(r"\d+\.\d\d", line)]
        for line in page.locator(".post h3").all_text_contents()
    ]
    most = [max(of, default=0) for of in costs]
    assert most == sorted(most, reverse=True)
    assert most[0] > 0
    assert all(page.locator(".post").nth(place).locator("image").count() for place in range(7))
    page.click("[data-turn='1'] >> nth=0")
    assert count(page) == "13 to 24 of 30 posts"
    assert page.locator(".post").count() == 12
    assert page.locator(".post image").count() == 3
    assert "its picture is not in this page" in page.locator(".post").last.inner_text()
    assert page.locator(".post rect").count() > 12  # boxes are drawn without a picture too


def test_a_term_is_explained_to_mouse_keyboard_and_touch(opened):
    page = opened(has_touch=True)
    term = page.locator(".figures tbody .term").first
    about = term.locator(".about")
    assert not about.is_visible()
    for show, hide in (
        (term.hover, lambda: page.mouse.move(0, 0)),
        (term.focus, lambda: page.keyboard.press("Escape")),
        (term.tap, lambda: page.keyboard.press("Escape")),
    ):
        show()
        assert about.is_visible()
        place = about.bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= 1280
        page.mouse.move(0, 0)
        hide()
        assert not about.is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_explanation_stays_in_the_window(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    terms = page.locator(".term:visible")
    assert terms.count() > 30
    outside = terms.evaluate_all("""async (all) => {
        const found = [];
        for (const one of all) {
            one.focus();
            for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);
            const {left, right, top, bottom} = one.querySelector(".about").getBoundingClientRect();
            const fits = left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight && right > left;
            if (!fits) found.push(one.textContent);
        }
        return found;
    }""")
    assert outside == []


def test_plots_and_style_pass_the_policy(opened):
    page = opened()
    assert page.locator("svg.figure").count() == 6
    colours = page.eval_on_selector_all("svg.figure path", "all => all.map(one => getComputedStyle(one).fill)")
    assert "rgb(184, 72, 10)" in colours  # --a
    assert page.eval_on_selector("svg.figure text", "one => getComputedStyle(one).fontSize") == "10px"
    assert page.eval_on_selector(".card", "one => getComputedStyle(one).borderRadius") != "0px"


def test_a_hostile_post_stays_text_and_runs_nothing(opened):
    page = opened()
    page.fill("#search", "window.hacked")
    assert sorted(shown(page)) == ["post-00", "post-01"]
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    said = page.locator(".post", has_text="post-01")
    assert HOSTILE in said.inner_text()
    assert said.locator("pre").all_text_contents()[-2:] == [HOSTILE, HOSTILE]  # knowledge, raw answer
    assert HOSTILE in page.locator("h1").inner_text()
    assert f"{HOSTILE}: grounded" in page.title()


def test_the_policy_stops_what_would_be_put_in(browser, report):
    page = browser.new_page()
    page.goto(report.as_uri())
    stopped = []
    page.on("console", lambda message: stopped.append(message.text))
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        const box = document.createElement("p");
        box.innerHTML = '<img src="http://127.0.0.1:9/x" onerror="window.hacked = 2">';
        document.body.append(script, box);
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert len(stopped) >= 2
    assert all("Content Security Policy" in text for text in stopped)
    page.close()


def test_filters(opened):
    page = opened()
    options = page.locator("#outcome option").all_text_contents()
    assert options == ["any", "correct (60)", "missed (10)", "spurious (1)", "spurious grounding (5)"]
    page.select_option("#outcome", "missed")
    assert count(page) == "1 to 10 of 10 posts that fit, of 30"
    assert set(shown(page)) == {f"post-{index:02}" for index in range(0, 30, 3)}
    page.select_option("#type", "ORG")
    assert count(page) == "none posts that fit, of 30"
    page.select_option("#type", "PER")
    page.select_option("#subset", "unseen")
    assert sorted(shown(page)) == ["post-21", "post-24", "post-27"]
    page.fill("#search", "POST-24 byron")
    assert shown(page) == ["post-24"]
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    assert count(page) == "1 to 12 of 30 posts"
    page.select_option("#system", "0")
    assert "spurious grounding" not in page.inner_text("#outcome")


def test_fixes_and_regressions(opened):
    page = opened()
    assert page.locator(".tally").inner_text().split("\n")[::2] == ["10", "5", "45", "0"]
    page.select_option("#change", "regressed")
    assert sorted(shown(page)) == [f"post-{index:02}" for index in range(5)]
    assert page.locator(".post").first.locator(".change.bad").inner_text() == "regressed in B"
    page.click(".moves button.good")
    assert page.input_value("#change") == "missed>correct"
    assert count(page) == "1 to 10 of 10 posts that fit, of 30"
    assert focused(page).startswith("post post-")


def test_overlays_are_switched(opened):
    page = opened()
    drawn = page.locator("#gallery g.gold rect").first
    path = page.locator("#gallery g.b path").first
    assert drawn.is_visible()
    assert path.is_visible()
    page.uncheck("#show-gold")
    assert not drawn.is_visible()
    assert path.is_visible()
    page.uncheck("#show-masks")
    assert not path.is_visible()
    assert page.locator("#gallery g.b rect").first.is_visible()
    page.uncheck("#show-b")
    assert not page.locator("#gallery g.b rect").first.is_visible()
    page.click("[data-turn='1'] >> nth=0")  # holds on the next page
    assert not page.locator("#gallery g.gold rect").first.is_visible()


def test_a_row_lights_its_own_regions(opened):
    page = opened()
    page.select_option("#order", "file")
    post = page.locator(".post", has_text="post-01")
    post.locator("tr[data-row='1']").hover()
    dim = post.locator("g.dim").evaluate_all("all => all.map(one => one.dataset.row)")
    assert set(dim) == {"0", "2"}
    page.mouse.move(0, 0)
    assert post.locator("g.dim").count() == 0
    post.focus()
    page.keyboard.press("1")
    dim = post.locator("g.dim").evaluate_all("all => all.map(one => one.dataset.row)")
    assert set(dim) == {"1", "2"}
    page.keyboard.press("1")
    assert post.locator("g.dim").count() == 0


def test_keys(opened):
    page = opened()
    page.select_option("#order", "file")
    order = shown(page)
    page.evaluate("document.activeElement.blur()")
    for key, place in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1)):
        page.keyboard.press(key)
        assert focused(page) == f"post {order[place]}"
    page.keyboard.press("e")
    assert page.locator(".post.wide .zoom[aria-expanded=true]").count() == 1
    page.keyboard.press("g")
    assert not page.is_checked("#show-gold")
    page.keyboard.press("n")
    assert count(page) == "13 to 24 of 30 posts"
    page.keyboard.press("k")  # above the first of a page is the last of the page before
    assert focused(page) == f"post {order[-1]}"
    page.keyboard.press("/")
    page.keyboard.type("jk")
    assert page.input_value("#search") == "jk"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_tab_goes_through_the_controls_in_order_with_a_ring(opened):
    page = opened()
    page.focus("#search")
    passed = []
    for _ in range(13):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    controls = ["outcome", "type", "system", "change", "subset", "task", "order"]
    layers = [f"show-{name}" for name in ("gold", "a", "b", "masks", "names")]
    assert passed == [*controls, *layers, "after"]


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("?")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_told_from_their_ground(opened, scheme):
    page = opened(color_scheme=scheme)
    tokens = ("page", "card", "soft", "ink", "faint", "good", "bad", "a", "b", "gold")
    read = "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue('--' + name))"
    colours = dict(zip(tokens, page.evaluate(read, tokens), strict=True))
    pairs = [(word, ground) for word in ("ink", "faint", "good", "bad") for ground in ("page", "card", "soft")]
    pairs += [("card", badge) for badge in ("a", "b", "gold")]
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    grounds = page.evaluate(TYPE_COLOURS)
    assert min(contrast(colours["ink"], ground) for ground in grounds) > 4.5
    assert len(set(grounds)) > 0.9 * len(grounds)
    dark = sum(parts(colours["page"])) < sum(parts(colours["ink"]))
    assert dark == (scheme == "dark")


def test_without_scripts_the_scores_are_there(opened):
    page = opened(java_script_enabled=False)
    assert "The gallery needs JavaScript" in page.inner_text("#posts")
    assert not page.is_visible("#tools")
    assert "GMNER" in page.inner_text("#scores")


def test_the_file_is_light(report):
    assert report.stat().st_size < 400_000


def parts(colour: str) -> list[float]:
    """The linear red, green and blue of "#rgb" or "#rrggbb"."""
    digits = colour.strip().lstrip("#")
    pairs = re.findall("..", "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits)
    levels = [int(pair, 16) / 255 for pair in pairs]
    return [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2, 1 to 21."""
    light = sorted(float(np.dot(parts(colour), (0.2126, 0.7152, 0.0722))) for colour in (first, second))
    return (light[1] + 0.05) / (light[0] + 0.05)
