"""``python -m rivegs_mllm.published.seqtr.words INSTANCES WORDS``: the words that a published SeqTR knows.

A checkpoint has word vectors by number and not the words. The original numbers them again at each start, by the
annotations that it was trained with, ``instances.json``: all expressions of all splits, in their order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rivegs_mllm.published.seqtr.preparation import vocabulary
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.types import UserError


def words_of(path: Path) -> dict[str, int]:
    """The numbers of the words in annotations. Raises UserError, which names the file, where it holds none."""
    try:
        splits = read_object(path, "name the annotations that the model was trained with")
        texts = [text for split in splits.values() for instance in split for text in instance["expressions"]]
        return vocabulary(texts)
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: holds no splits of instances with their expressions, as SeqTR's do") from None


def main(arguments: list[str] | None = None) -> int:
    """Writes the words. Returns 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description="The words of a published SeqTR, by number.")
    parser.add_argument("instances", type=Path, help="the annotations that it was trained with")
    parser.add_argument("words", type=Path, help="the file to write, JSON")
    args = parser.parse_args(arguments)
    try:
        words = words_of(args.instances)
        write_json(args.words, words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(words)} words: {args.words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
