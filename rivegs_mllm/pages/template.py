"""HTML pages from Jinja templates."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from rivegs_mllm.pages.terms import TERMS

_SHARED = Path(__file__).parent / "templates"


def page_template(path: Path) -> Template:
    """The template in a file: what is put in is escaped, and a variable that is not given is an error.

    It can include what lies beside it and the parts that all pages share: ``base.css``, and ``term.html.jinja``, whose
    macro ``term`` writes one of `TERMS` with its explanation.
    """
    environment = Environment(
        loader=FileSystemLoader([path.parent, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["terms"] = TERMS
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template(path.name)


def shared_style() -> str:
    """The style that all pages share."""
    return (_SHARED / "base.css").read_text(encoding="utf-8")
