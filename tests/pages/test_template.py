from pathlib import Path

import pytest
from jinja2 import UndefinedError

from rivegs_mllm.cascade.base import ALL_SLOTS, SLOTS
from rivegs_mllm.pages.template import page_template
from rivegs_mllm.pages.terms import TERMS

ROOT = Path(__file__).parents[2]


def test_a_term_carries_its_explanation_and_all_is_escaped(tmp_path):
    page = tmp_path / "page.jinja"
    page.write_text(
        '{% from "term.html.jinja" import explained, term %}{{ term("IoU") }}|{{ explained(words, about) }}'
    )
    iou, own = page_template(page).render(words="<b>", about="<i>").split("|")
    assert iou.startswith(
        '<span class="term" tabindex="0">IoU<span class="about" role="tooltip">Intersection over union'
    )
    assert "&lt;b&gt;" in own
    assert "&lt;i&gt;" in own


@pytest.mark.parametrize(
    "text", ["{{ missing }}", '{% from "term.html.jinja" import term %}{{ term("no such term") }}']
)
def test_what_is_not_there_is_an_error(tmp_path, text):
    page = tmp_path / "page.jinja"
    page.write_text(text)
    with pytest.raises(UndefinedError):
        page_template(page).render()


def test_no_term_is_explained_in_vain():
    files = [*ROOT.glob("eval/report/templates/*.jinja"), *ROOT.glob("rivegs_mllm/compare/page*")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    tasks = {"MNER", "GMNER", "EEG", "SMNER", "EES"}  # named by the scores
    assert {name for name in TERMS if f'"{name}"' not in text} - tasks == {ALL_SLOTS, *SLOTS}
