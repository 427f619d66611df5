"""Text of posts is tokenised as text: none of it becomes a special token."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def escape_special_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text with a blank in whatever the tokenizer would read as one of its added tokens, so that a post cannot end
    its turn or name a box."""
    for token in tokenizer.get_added_vocab():
        if len(token) > 1 and token in text:  # one character cannot be parted by a blank
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def ignore_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, which from here on tokenises the names of its special tokens as text."""
    tokenizer.split_special_tokens = True
    return tokenizer


def truncate_words(tokenizer: PreTrainedTokenizerBase, text: str, room: int) -> str:
    """As many words from the text's beginning as fit into ``room`` tokens, special ones included.

    A first word that does not fit is itself truncated. ``text`` unchanged where it fits.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    if len(encoded.input_ids) <= room:
        return text
    ends = [end for start, end in encoded.offset_mapping if end > start]  # special tokens have no characters
    kept = max(1, room - (len(encoded.input_ids) - len(ends)))
    whole = text[: ends[kept - 1]]
    if not text[len(whole)].isspace():
        whole = whole.rpartition(" ")[0] or whole
    return whole.rstrip()
