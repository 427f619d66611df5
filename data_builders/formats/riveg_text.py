"""What RiVEG publishes beside the posts: the knowledge that LLMs wrote about them, and captions of their pictures.

Knowledge files hold no ids: the post's words, ``<EOS>`` and the knowledge's words, tagged X
(``data_builders.formats.conll``). Captions come in two forms, ``imgid:<id>###<text>``, whose text may run over several
lines, and ``<id>.jpg :<text>``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_builders.findings import Finding
from data_builders.formats.conll import read_knowledge_posts
from data_builders.formats.text_files import read_lines
from rivegs_mllm.types import Sample, UserError

_FORMS = (re.compile(r"imgid:([^#\s]+)###(.*)"), re.compile(r"(\S+)\.jpg :(.*)"))


def read_knowledge(path: Path | str, samples: Iterable[Sample]) -> dict[str, str]:
    """The knowledge of those of ``samples`` whose words the file holds, by id; "" where the file has none for it.

    Posts of the same words get theirs in the order of both. Raises UserError naming file and line.
    """
    return _by_id(read_knowledge_posts(path), samples)


def add_knowledge(samples: dict[str, list[Sample]], folder: Path, findings: list[Finding]) -> None:
    """Gives the samples of each split, in place, the texts of ``folder/<split>.txt``, which holds the same posts.

    Another number of posts is a finding of level "error", a post with other words a warning.
    """
    for split, ours in samples.items():
        path = folder / f"{split}.txt"
        posts = read_knowledge_posts(path)
        if len(posts) != len(ours):
            message = f"{len(posts)} posts, but the split has {len(ours)}"
            findings.append(Finding("knowledge of other posts", str(path), message, "error"))
            continue
        texts = _by_id(posts, ours)
        for number, sample in enumerate(ours, 1):
            if sample.id not in texts:
                message = f"no post of the file has the words of {sample.id}, which gets none"
                findings.append(Finding("knowledge of other words", f"{path}: post {number}", message))
        samples[split] = [
            replace(sample, knowledge=(texts[sample.id],)) if texts.get(sample.id) else sample for sample in ours
        ]


def read_captions(path: Path | str) -> dict[str, str]:
    """The captions by picture id, lines joined by line feeds; published files lack some.

    Raises UserError naming file and line where the file has neither form, or an id twice.
    """
    lines = read_lines(path)
    # The first line's form holds for the file, so that a text that quotes the other one stays a text.
    form = next((form for form in _FORMS if form.fullmatch(lines[0])), None)
    if form is None:
        raise UserError(f"{path}:1: {lines[0][:60]!r} is neither imgid:<id>###<text> nor <id>.jpg :<text>")
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if match := form.fullmatch(line):
            identity, first = match.groups()
            if identity in captions:
                raise UserError(f"{path}:{number}: a second caption of {identity}; delete one")
            text = captions[identity] = [first]
        else:
            text.append(line)
    return {identity: "\n".join(text).strip() for identity, text in captions.items()}


def _by_id(posts: Sequence[tuple[tuple[str, ...], str]], samples: Iterable[Sample]) -> dict[str, str]:
    texts: dict[tuple[str, ...], deque[str]] = {}
    for tokens, text in posts:
        texts.setdefault(tokens, deque()).append(text)
    return {sample.id: texts[sample.tokens].popleft() for sample in samples if texts.get(sample.tokens)}
