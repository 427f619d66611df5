"""Posts of like length are answered together, within a budget of tokens."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.models.base_model import System, load_without_weights
from rivegs_mllm.models.batching import SampleEncoder, encode_prompt
from rivegs_mllm.models.generation.batch_plan import plan_batches, prompt_lengths


@given(st.lists(st.integers(1, 300)), st.integers(1, 1000), st.integers(1, 9))
def test_every_row_is_in_one_batch_and_no_batch_is_over_the_budget(lengths, tokens, size):
    batches = plan_batches(lengths, tokens, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches == plan_batches(lengths, tokens, size)
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= tokens


@given(st.lists(st.integers(1, 300), min_size=2))
def test_rows_of_a_batch_are_neighbours_in_length(lengths):
    spans = [sorted(lengths[index] for index in batch) for batch in plan_batches(lengths, 900, 4)]
    spans.sort(key=lambda own: (own[0], own[-1]))
    assert all(before[-1] <= after[0] for before, after in itertools.pairwise(spans))


def test_lengths_are_those_of_the_prompts_that_the_model_is_given(trained):
    recipe = read_recipe(trained.recipe)
    processor, answer_format = load_without_weights(recipe)
    system = System(None, processor, answer_format, recipe.answer.instruction)
    encoder = SampleEncoder(processor)
    real = [
        encode_prompt(sample, trained.data, encoder, answer_format, system.instruction)["input_ids"].shape[1]
        for sample in trained.samples
    ]
    assert len(set(real)) > 1
    assert prompt_lengths(trained.samples, system, 10_000) == real
    assert prompt_lengths(trained.samples, system, 5) == [5] * len(real)


@pytest.mark.parametrize("size", [(4000, 3), None])
def test_pictures_that_are_refused_or_unknown_end_no_plan(trained, size):
    recipe = read_recipe(trained.recipe)
    processor, answer_format = load_without_weights(recipe)
    system = System(None, processor, answer_format, recipe.answer.instruction)
    (one,) = prompt_lengths([replace(trained.samples[0], image="there.png", size=size)], system, 10_000)
    (plain,) = prompt_lengths([replace(trained.samples[0], image="there.png", size=(32, 32))], system, 10_000)
    assert one < plain if size else one > plain
