"""Small tokenizers of the kinds that bases have, each with the location tokens of the tiny base."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rivegs_mllm.answer.format import loc_tokens
from rivegs_mllm.models.base_model import TINY_BASE
from rivegs_mllm.tiny.architecture import build_answer_format

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:(),.[]<>|_/\\\n"
_PIECES = ["▁", "▁▁", "▁▁▁", "▁a", "▁yes", "▁no", "▁▁yes", "▁(P", "an", "en", "ti", ")\n", ":▁", "10", "25"]
_MERGES = ["Ġ Ġ", "ĠĠ ĠĠ", ": Ġ", ":Ġ A", "n n", "Ġ y", "Ġy es", "e s", "Ġ n", "Ġn o", ") Ċ", "A nn", "ĠĠ y", "1 0"]


def tiny_base() -> PreTrainedTokenizerFast:
    """The tiny base's own: byte-level BPE, split as the Qwen models split."""
    return AutoProcessor.from_pretrained(TINY_BASE).tokenizer


def merged_blanks() -> PreTrainedTokenizerFast:
    """Byte-level BPE without a split at words: tokens of several blanks, of a blank's end, of a label and a word."""
    pairs = [tuple(pair.split()) for pair in _MERGES]
    words = [*bytes_to_unicode().values(), *dict.fromkeys("".join(pair) for pair in pairs)]
    own = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.decoder = decoders.ByteLevel()
    return _finished(own)


def sentencepiece() -> PreTrainedTokenizerFast:
    """Spells blanks as "▁", several of them in a token, and bytes where it has no letter."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_LETTERS, *_PIECES]
    scores = [(token, -len(vocabulary) + 5.0 * len(token)) for token in vocabulary]
    own = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(own)


def without_bytes() -> PreTrainedTokenizerFast:
    """Puts a blank before every text, and cannot write all characters."""
    vocabulary = ["<unk>", "<s>", "</s>", *_LETTERS, *_PIECES]
    own = Tokenizer(models.Unigram([(token, -len(vocabulary) + 5.0 * len(token)) for token in vocabulary], unk_id=0))
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    own.decoder = decoders.Metaspace(prepend_scheme="never")
    return _finished(own)


def _finished(own: Tokenizer) -> PreTrainedTokenizerFast:
    own.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<unk>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    tokenizer.add_tokens(loc_tokens(build_answer_format().bins))
    return tokenizer


TOKENIZERS = {
    "tiny base": tiny_base(),
    "merged blanks": merged_blanks(),
    "sentencepiece": sentencepiece(),
    "without bytes": without_bytes(),
}
