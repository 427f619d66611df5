"""Text encoders of the stages: any AutoModel with a fast tokenizer, found on the hub or on disk, or built here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rivegs_mllm.models.plain_text import ignore_special_tokens
from rivegs_mllm.models.pretrained import resolve_model_path
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

TINY = "tiny"
_COMMON = 10
"""How often a piece must occur in the corpus to be in the vocabulary; single characters always are."""
_MARKS = 14
"""Token types of the tiny encoder beyond those of text and knowledge; they mark the words that both share."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def load_encoder(
    name: str, revision: str | None, corpus: Iterable[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """An encoder with its weights, in float32, and its fast tokenizer.

    ``name`` is a hub id, a folder, ``package:NAME/FOLDER`` for a folder inside an installed package, or ``tiny``: a
    small one, untrained, whose pieces of words are those of ``corpus``. Raises UserError for an encoder that is not
    there, lacks weights or has no fast tokenizer.
    """
    if name == TINY:
        return _tiny(corpus)
    source = resolve_model_path(name)
    try:
        model, info = AutoModel.from_pretrained(
            source, revision=revision, use_safetensors=True, output_loading_info=True, dtype="float32"
        )
    except (OSError, ValueError) as error:
        raise UserError(f"encoder {name}: {one_line(error)}") from None
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(f"encoder {name}: its checkpoint lacks {len(missing)} weights, such as {missing[0]}")
    return without_pooler(model), load_tokenizer(source, revision)


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """A fast tokenizer that takes text split into words. Raises UserError where there is none."""
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, add_prefix_space=True)  # BPE splits need it
    if not tokenizer.is_fast:
        raise UserError(
            f"encoder {source}: its tokenizer is not a fast one, which alignment with words needs; choose another"
        )
    return ignore_special_tokens(tokenizer)


def bare_encoder(folder: Path) -> PreTrainedModel:
    """The encoder of a config, without weights."""
    return without_pooler(AutoModel.from_config(AutoConfig.from_pretrained(folder)))


def without_pooler(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder with its pooler, if any, frozen: nothing reads it, and DDP fails where a trained part is not used."""
    for name, value in model.named_parameters():
        if name.startswith("pooler."):
            value.requires_grad_(False)
    return model


def marks(model: PreTrainedModel) -> int:
    """How many token types the encoder has beyond the two of text and knowledge."""
    return max(0, model.config.to_dict().get("type_vocab_size", 0) - 2)


def _tiny(corpus: Iterable[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = tiny_tokenizer(corpus)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        type_vocab_size=2 + _MARKS,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
    )
    return without_pooler(BertModel(config)), tokenizer


def tiny_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A cased WordPiece tokenizer that spells names, known and unknown ones alike, by pairs of characters."""
    vocabulary = {piece: index for index, piece in enumerate([*_SPECIAL, *_pieces(corpus)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", end), ("[CLS]", start))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=256,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    return ignore_special_tokens(fast)


def tiny_bart_tokenizer(corpus: Iterable[str], longest: int = 512) -> PreTrainedTokenizerFast:
    """As ``tiny_tokenizer``, with BART's special tokens in BART's places."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    vocabulary = {piece: index for index, piece in enumerate([*special, *_pieces(corpus)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return ignore_special_tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **names))


def _pieces(corpus: Iterable[str]) -> list[str]:
    """All characters, the common pairs of characters, and the common words in lower case, sorted.

    Counted here, since the trainers of tokenizers number such pieces differently each time, and a run that is resumed
    must tokenize as it did.
    """
    split = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in corpus for word, _ in split.pre_tokenize_str(text))
    single, common = set(), Counter()
    for word, count in words.items():
        single |= {word[0], *(f"##{letter}" for letter in word)}
        # In step with a word's start, as WordPiece's longest match from the left splits it.
        common.update({f"{'##' if start else ''}{word[start : start + 2]}": count for start in range(0, len(word), 2)})
        if word.islower():
            common[word] += count
    return sorted(single | {piece for piece, count in common.items() if count >= _COMMON})
