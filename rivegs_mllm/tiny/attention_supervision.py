"""Attention supervision of the tiny base: a head attends to what the text refers to, the layers before encode it.

With next-token prediction alone, a few million parameters do not learn to gather the words of an expression and to
compare them with every cell of a picture. Here both are supervised.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from rivegs_mllm.models.batching import Tensors
from rivegs_mllm.tiny.architecture import MAX_PIXELS, MERGE, PATCH
from rivegs_mllm.tiny.vision_pretraining import directions, unlike_words
from rivegs_mllm.training.dataset.rows import IGNORED

CELLS = MAX_PIXELS // (PATCH * MERGE) ** 2
SUPERVISED_LAYER = 4
COPY_HEAD = 0, 0  # the head that attends to what is copied: query head, key and value head
SHARPNESS = 32.0  # of the similarity between the supervised layer's input and the words to attend to


class AttentionSupervision:
    """Supervises what one head of the model attends to for each token of the answer.

    Its attention is supervised (arXiv 1609.04186, there for translation): on the cells of the look that is referred to,
    or on the token before the picture where there is none. The layers after it then have the cell's content at hand.
    Its layer's input is supervised, too: towards the words of an expression that has been read, as the cells are near
    the words that describe them, so that all the head has to do is to compare the two.
    """

    def __init__(self, model: PreTrainedModel):
        config = model.config.get_text_config()
        self.attention = model.model.language_model.layers[SUPERVISED_LAYER].self_attn
        self.size = config.hidden_size // config.num_attention_heads
        self.seeing = config.num_attention_heads - 1, config.num_key_value_heads - 1
        self.image_token = model.config.image_token_id
        self.embedding = model.get_input_embeddings().weight
        self.attention.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: torch.nn.Module, arguments: tuple, named: dict) -> None:
        self.hidden, self.turns = named["hidden_states"], named["position_embeddings"]

    def loss(self, inputs: Tensors, labels: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """The mean of -log of the attention that falls on ``regions``, over the tokens that have any.

        ``labels`` (rows, columns) are of the last columns of ``inputs``, as the collator makes them; ``regions``
        (answer tokens of all rows, 1 + CELLS). To be called after the model's forward.
        """
        attention = self._log_attention(self.seeing, labels.shape[1] - 1, inputs["attention_mask"])
        keys = self._keys(inputs["input_ids"])
        row, column = labels[:, 1:].ne(IGNORED).nonzero(as_tuple=True)
        supervised = regions.any(-1)
        row, column, regions = row[supervised], column[supervised], regions[supervised]
        on = attention[row[:, None], column[:, None], keys[row]].masked_fill(~regions, float("-inf"))
        return -on.logsumexp(-1).mean() if len(row) else attention.new_zeros(())

    def words_loss(self, labels: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """The distance of the layer's input at each token from ``words``, (answer tokens of all rows, words)."""
        embedding = directions(self.embedding)
        given = self.hidden[:, -labels.shape[1] : -1, : embedding.shape[1]][labels[:, 1:].ne(IGNORED)].float()
        supervised = words.ne(IGNORED).any(-1)
        if not supervised.any():
            return given.new_zeros(())
        with torch.autocast(given.device.type, enabled=False):
            return unlike_words(given[supervised], words[supervised], embedding, SHARPNESS)

    def source_loss(self, inputs: Tensors, labels: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """The mean of -log of the attention that falls on what is copied, of another head of the layer.

        ``sources`` (answer tokens of all rows,) is how many tokens before the answers each stands, 0 where none does.
        """
        columns = labels.shape[1] - 1
        attention = self._log_attention(COPY_HEAD, columns, inputs["attention_mask"])
        row, column = labels[:, 1:].ne(IGNORED).nonzero(as_tuple=True)
        copied = sources.gt(0)
        if not copied.any():
            return attention.new_zeros(())
        return -attention[row[copied], column[copied], attention.shape[2] - columns - sources[copied]].mean()

    def _log_attention(self, head: tuple[int, int], columns: int, mask: torch.Tensor) -> torch.Tensor:
        """(rows, columns, tokens): a head's, from the tokens that predict the answers."""
        query, key = head
        with torch.autocast(self.hidden.device.type, enabled=False):
            hidden = self.hidden.float()
            queries = self._turned(hidden, self.attention.q_proj, query)[:, -1 - columns : -1]
            keys = self._turned(hidden, self.attention.k_proj, key)
            scores = queries @ keys.transpose(1, 2) * self.attention.scaling
        places = torch.arange(scores.shape[2])
        seen = (places <= places[-1 - columns : -1, None]) & mask[:, None].bool()
        # Finite: a padding row sees nothing, and all minus infinity would be NaN, in the gradient too.
        return scores.masked_fill(~seen, -1e4).log_softmax(-1)

    def _turned(self, hidden: torch.Tensor, projection: torch.nn.Linear, head: int) -> torch.Tensor:
        """A head's queries or keys after the rotary embedding, (rows, tokens, size)."""
        own = slice(head * self.size, (head + 1) * self.size)
        flat = torch.nn.functional.linear(hidden, projection.weight[own], projection.bias[own])[:, None]
        turned, _ = apply_rotary_pos_emb(flat, flat, *self.turns)
        return turned[:, 0]

    def _keys(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, 1 + CELLS): the columns of the token before the picture and of its cells; 0 after the last."""
        places = torch.zeros(len(tokens), 1 + CELLS, dtype=torch.long)
        for index, row in enumerate(tokens.eq(self.image_token)):
            (cells,) = row.nonzero(as_tuple=True)
            if len(cells):
                places[index, 0] = cells[0] - 1
                places[index, 1 : 1 + len(cells)] = cells
        return places
