"""Vision towers attend window by window, in a call for each length of window instead of each window."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_base import make_recipe
from torch.nn.functional import scaled_dot_product_attention

from rivegs_mllm.models import packed_attention
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.models.packed_attention import PACKED, attend_packed

GRIDS = torch.tensor([[1, 10, 14], [1, 6, 22], [1, 10, 14], [1, 2, 2]])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 2**16))
def test_each_chunk_attends_to_itself_alone(lengths, seed):
    torch.manual_seed(seed)
    states = [torch.randn(1, 2, sum(lengths), 4, requires_grad=True) for _ in range(3)]
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    out, weights = packed_attention.packed_attention(None, *states, None, cu_seq_lens_q=ends, scaling=0.3)
    parts = zip(*(own.split(lengths, dim=2) for own in states), strict=True)
    expected = torch.cat([scaled_dot_product_attention(*own, scale=0.3) for own in parts], 2).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(out, expected)
    wanted = torch.autograd.grad(expected.square().sum(), states)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), states), wanted)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the queries that are handed to scaled dot-product attention."""
    shapes = []

    def counted(query, *arguments, **options):
        shapes.append(tuple(query.shape))
        return scaled_dot_product_attention(query, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(packed_attention, "scaled_dot_product_attention", counted)
    return shapes


def test_a_tower_answers_as_before_in_few_calls(base, emblems, tmp_path, calls):
    model = load_base(make_recipe(tmp_path, base, emblems, "--model.attention=sdpa")).model
    tower = model.model.visual
    assert tower.config._attn_implementation == PACKED
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    pixels = torch.randn(int(GRIDS.prod(1).sum()), tower.patch_embed.proj.weight[0].numel())
    packed, few = features(tower, pixels, calls), len(calls)
    calls.clear()
    tower.config._attn_implementation = "sdpa"
    torch.testing.assert_close(packed, features(tower, pixels, calls))
    assert few < len(calls)
    attend_packed(model)
    assert tower.config._attn_implementation == PACKED


def features(tower, pixels, calls) -> torch.Tensor:
    with torch.no_grad():
        return tower(pixels, grid_thw=GRIDS).last_hidden_state


def test_another_attention_is_left_as_it_is(base, emblems, tmp_path):
    model = load_base(make_recipe(tmp_path, base, emblems, "--model.attention=eager")).model
    assert model.model.visual.config._attn_implementation == "eager"
