import pytest
from jinja2 import UndefinedError

from rivegs_mllm.pages.template import page_template


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
