"""How Sphinx makes a site of README.md and docs/: ``make docs``. Sources and links are as they are on GitHub."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

project = "RiVEGS-MLLM"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "recipes/README.md",
    "rivegs_mllm/tiny/base/README.md",
]
exclude_patterns = [".*", "data", "runs"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
smartquotes = False  # or an option of the command line loses one of its dashes
default_role = "py:obj"  # a name in single backticks, as docstrings have it
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100

NAVIGATION = {
    "Use": ["docs/use", "docs/serving", "docs/api"],
    "Data": ["docs/data", "docs/import", "docs/format"],
    "Train": ["docs/training", "recipes/README", "rivegs_mllm/tiny/base/README"],
    "Cascade": ["docs/cascade", "docs/published_seqtr", "docs/distilling"],
    "Evaluate": ["docs/evaluation"],
    "Develop": ["CONTRIBUTING", "docs/reliability", "docs/messages"],
}
_NAMED = {page for pages in NAVIGATION.values() for page in pages}
_OTHERS = {f"docs/{page.stem}" for page in Path(__file__).parent.glob("*.md")} - _NAMED
if _OTHERS:
    NAVIGATION["More"] = sorted(_OTHERS)


def _add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Behind the first page's text, where its own readers do not see it."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def _begin_with_the_first_page(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _begin_with_the_first_page)
