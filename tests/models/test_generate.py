"""Answers generated: in batches, behind a forced prefix, with the probability of being visible."""

import dataclasses
import re

import pytest
import torch
from PIL import Image
from tiny_base import LEARNED, make_recipe

from rivegs_mllm.answer.serialization import line_start, parse, render
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.base_model import System, check_decision_tokens, load_base
from rivegs_mllm.models.batching import encode_prompt
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.models.generation.processors import visible_scores
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.types import Entity, Prediction, Sample, UserError


@pytest.fixture(scope="module")
def samples(learned) -> list[Sample]:
    """Posts of two entities or more, the second without its picture."""
    return read_split(learned / "data", "dev")


@pytest.fixture(scope="module")
def system(tmp_path_factory, learned) -> System:
    folder = tmp_path_factory.mktemp("recipe")
    system = load_base(make_recipe(folder, learned / "base", learned / "data", LEARNED))
    system.model.eval()
    return system


@pytest.fixture(scope="module")
def generator(system, learned) -> Generator:
    return Generator(system, learned / "data", max_new_tokens=100)


@pytest.fixture(scope="module")
def answers(generator, samples) -> list[Prediction]:
    return generator.answer(samples)


def gold(sample: Sample) -> Prediction:
    return Prediction(sample.id, entities=sample.entities)


def scored(predictions: list[Prediction]) -> list[float | None]:
    return [entity.visible_score for prediction in predictions for entity in prediction.entities]


def unscored(predictions: list[Prediction]) -> list[Prediction]:
    """The predictions without their scores, which may differ in the last digits."""
    return [
        dataclasses.replace(answer, entities=tuple(dataclasses.replace(e, visible_score=None) for e in answer.entities))
        for answer in predictions
    ]


def test_a_batch_is_answered_as_its_posts_one_at_a_time(generator, samples, answers):
    lengths = {encode(generator, sample)["input_ids"].shape[1] for sample in samples}
    assert len(lengths) == len(samples)  # so the batch is padded
    assert len({len(answer.raw) for answer in answers}) > 1
    alone = [generator.answer([sample])[0] for sample in samples]
    assert unscored(alone) == unscored(answers)
    assert scored(alone) == pytest.approx(scored(answers), rel=1e-4)
    assert unscored(generator.answer(samples[::-1]))[::-1] == unscored(answers)


def test_the_answers_are_of_their_posts(samples, answers):
    assert [answer.id for answer in answers] == [sample.id for sample in samples]
    for sample, answer in zip(samples, answers, strict=True):
        assert answer.errors == ()
        assert "<|" not in answer.raw
        assert [entity.text for entity in answer.entities] == [entity.text for entity in sample.entities]


def encode(generator: Generator, sample: Sample) -> dict[str, torch.Tensor]:
    system = generator.system
    return encode_prompt(sample, generator.folder, generator.encoder, system.answer_format, system.instruction)


def plain_probability(generator: Generator, sample: Sample, answer: str) -> float:
    """The probability of yes against no behind this beginning of an answer, by one pass of the model."""
    inputs = encode(generator, sample)
    tokens = generator.encoder.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens)], 1)
    with torch.no_grad():
        logits = generator.system.model(**inputs).logits[0, -1]
    yes, no = check_decision_tokens(generator.encoder.tokenizer)
    return logits[[yes, no]].softmax(0)[0].item()


def test_the_visible_score_is_the_model_s_probability(generator, samples, answers):
    checked = 0
    for sample, answer in zip(samples, answers, strict=True):
        for number, entity in enumerate(answer.entities, 1):
            before = answer.raw[: answer.raw.index(line_start("visible", number))] + line_start("visible", number)
            assert entity.visible_score == pytest.approx(plain_probability(generator, sample, before), rel=1e-3)
            assert (entity.visible_score > 0.5) == entity.visible
            checked += 1
    assert checked >= 2 * len(samples)
    assert 0 < sum(entity.visible for answer in answers for entity in answer.entities) < checked


def test_a_score_belongs_to_the_number_it_was_decided_for(generator, samples):
    sample = next(sample for sample in samples if sample.image)
    text = f"entity 1: unreadable\nentity 2: {sample.entities[0].text} (PER)\nvisible 1: yes\nvisible 2: no\n"
    tokens = generator.encoder.tokenizer(text).input_ids
    decided = [step for step, token in enumerate(tokens) if token in generator.decision]
    assert len(decided) == 2
    probabilities = [0.0] * len(tokens)
    probabilities[decided[0]], probabilities[decided[1]] = 0.9, 0.2
    scores = visible_scores(tokens, probabilities, generator.decision, generator.encoder.tokenizer)
    assert scores == {1: 0.9, 2: 0.2}
    size = sample.size
    [entity] = parse(sample.id, text, sample.tokens, generator.system.answer_format, size, scores).entities
    assert entity.visible is False
    assert entity.visible_score == 0.2


@pytest.mark.parametrize("until", ["entities", "visible"])
def test_a_forced_prefix_is_kept_and_gone_on_from(generator, samples, until):
    drafts = [gold(sample) for sample in samples]
    answers = generator.continue_answers(samples, drafts, until)
    later = {"entities": "visible 1:", "visible": "box "}[until]
    for sample, answer in zip(samples, answers, strict=True):
        answer_format = generator.system.answer_format.up_to(until)
        pieces = render(sample.tokens, "", sample.entities, answer_format, sample.size if sample.image else None)
        forced = "".join(piece.text for piece in pieces)
        assert answer.raw.startswith(forced)
        shown = sample.image and any(entity.visible for entity in sample.entities)
        assert answer.raw[len(forced) :].startswith(later) or (until == "visible" and not shown)
        assert [entity.span for entity in answer.entities] == [entity.span for entity in sample.entities]
    expected = [entity.visible_score is None for answer in answers for entity in answer.entities]
    assert expected == [until == "visible"] * len(expected)


def test_what_is_forced_decides_what_follows(generator, samples):
    """With the draft's visibility turned over, the boxes follow the draft and not the picture."""
    sample = next(sample for sample in samples if sample.image)
    hidden = Prediction(
        sample.id, entities=tuple(dataclasses.replace(entity, visible=False, boxes=()) for entity in sample.entities)
    )
    [answer] = generator.continue_answers([sample], [hidden], "visible")
    assert not any(entity.visible or entity.boxes for entity in answer.entities)


def test_scores_behind_a_forced_prefix_are_the_model_s_own(generator, samples):
    answers = generator.continue_answers(samples, [gold(sample) for sample in samples], "entities")
    for sample, answer in zip(samples, answers, strict=True):
        before = answer.raw[: answer.raw.index("visible 1:") + len("visible 1:")]
        expected = plain_probability(generator, sample, before)
        assert answer.entities[0].visible_score == pytest.approx(expected, rel=1e-3)


def test_a_post_whose_picture_is_missing_is_answered_with_an_error(generator, samples):
    seen = next(sample for sample in samples if any(entity.boxes for entity in sample.entities))
    lost, blind = dataclasses.replace(seen, image="images/lost.jpg"), dataclasses.replace(seen, image="", size=None)
    forced = generator.continue_answers([lost], [gold(lost)], "visible")[0]
    boxed = re.search(r"^box [0-9]+: ", forced.raw, re.MULTILINE) is not None
    # Whether the model writes boxes unseen depends on how the processor rounds.
    assert any("boxes without a picture" in error for error in forced.errors) == boxed
    for answer in (generator.answer([samples[2], lost])[1], forced):
        assert "no picture" in answer.errors[0]
        assert "lost.jpg: no such picture" in answer.errors[0]
        assert not any(entity.boxes for entity in answer.entities)
    assert generator.answer([lost])[0].raw == generator.answer([blind])[0].raw


def with_tokens(sample: Sample, *tokens: str) -> Sample:
    return dataclasses.replace(sample, id="long", tokens=tokens, entities=())


def test_of_a_long_post_the_beginning_is_answered(system, generator, learned, samples, answers):
    """Its error says how much was read; the prompt fits, the posts beside it are answered as ever."""
    longest = max(encode(generator, sample)["input_ids"].shape[1] for sample in samples)
    short = Generator(system, learned / "data", max_new_tokens=100, max_length=longest)
    seen = next(sample for sample in samples if sample.image)
    long = with_tokens(seen, *seen.tokens * 300)
    *others, answer = short.answer([*samples, long])
    assert unscored(others) == unscored(answers)
    [error] = [error for error in answer.errors if error.startswith("truncated")]
    said = rf"truncated: read ([0-9]+) of {len(long.tokens)} words, as a prompt may have {longest} tokens"
    read = int(re.fullmatch(said, error)[1])
    assert encode(short, with_tokens(seen, *long.tokens[:read]))["input_ids"].shape[1] <= longest
    assert encode(short, with_tokens(seen, *long.tokens[: read + 1]))["input_ids"].shape[1] > longest
    assert all(entity.span[1] <= read for entity in answer.entities)
    assert answer.entities


def test_a_word_longer_than_a_prompt_is_not_answered(system, learned, samples, answers):
    short = Generator(system, learned / "data", max_new_tokens=100, max_length=1000)
    first, answer = short.answer([samples[0], with_tokens(samples[0], "Zarvik" * 5000, "Molen")])
    assert unscored([first]) == unscored(answers[:1])
    assert answer == Prediction("long", errors=("truncated: read 0 of 2 words, as a prompt may have 1000 tokens",))


def test_of_a_long_draft_all_entities_are_kept(system, learned, samples):
    """Also those behind what is read: the draft is another stage's."""
    short = Generator(system, learned / "data", max_new_tokens=100, max_length=300)
    long = with_tokens(samples[0], *samples[0].tokens * 30)
    last = len(long.tokens) - 1
    draft = Prediction("long", entities=(Entity(long.tokens[last], "PER", (last, last + 1)),))
    [answer] = short.continue_answers([long], [draft], "entities")
    assert [entity.span for entity in answer.entities] == [(last, last + 1)]
    assert answer.entities[0].visible is not None
    assert answer.errors[0].startswith("truncated: read ")


def test_answers_that_leave_no_room_for_a_prompt_are_refused(system, learned):
    context = system.model.config.get_text_config().max_position_embeddings
    with pytest.raises(UserError, match=f"max_new_tokens: {context} leaves no room"):
        Generator(system, learned / "data", max_new_tokens=context)


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000), (1, 5000), (1, 1), (2, 300), (4000, 21)])
def test_a_picture_of_any_shape_is_seen_or_named(system, samples, answers, tmp_path, size):
    """Among others, which are answered as before."""
    Image.new("RGB", size, "red").save(tmp_path / "odd.png")
    odd = dataclasses.replace(samples[0], id="odd", image="odd.png", size=size)
    blind = dataclasses.replace(samples[1], id="blind", image="", size=None)
    answer, other = Generator(system, tmp_path, 100).answer([odd, blind])
    assert unscored([other]) == unscored([dataclasses.replace(answers[1], id="blind")])
    refused = max(size) > 200 * min(size)
    assert any("odd.png" in error and "200 to 1" in error for error in answer.errors) == refused


def test_whatever_a_processor_raises_over_a_picture_is_the_post_s_error(generator, samples, answers, monkeypatch):
    def fails(turns, image):
        if image is not None and image.size == samples[0].size:
            raise IndexError("list index\nout of range")
        return real(turns, image)

    real = generator.encoder.prompt
    monkeypatch.setattr(generator.encoder, "prompt", fails)
    first, second = generator.answer([samples[0], samples[1]])
    assert f"fails at a picture of {samples[0].size[0]} x {samples[0].size[1]}: IndexError list index out" in str(
        first.errors
    )
    assert unscored([second]) == unscored(answers[1:2])


def test_a_size_that_is_not_on_record_is_the_picture_s(generator, samples, answers):
    assert unscored(generator.answer([dataclasses.replace(samples[0], size=None)])) == unscored(answers[:1])


def test_a_picture_of_another_size_than_recorded_is_the_post_s_error(generator, samples, answers):
    wrong, right = generator.answer([dataclasses.replace(samples[0], size=(7, 5)), samples[1]])
    assert "recorded as (7, 5)" in wrong.errors[0]
    assert unscored([right]) == unscored(answers[1:2])


def test_an_answer_that_is_cut_off_keeps_its_raw_text(system, learned, samples, answers):
    short = Generator(system, learned / "data", max_new_tokens=12).answer(samples)
    for cut, whole in zip(short, answers, strict=True):
        assert cut.raw
        assert whole.raw.startswith(cut.raw)
        assert len(cut.raw) < len(whole.raw)
        assert any("cut off" in error or "no visible line" in error for error in cut.errors)


def test_the_base_s_own_generation_settings_do_not_leak_in(system, learned, samples, answers):
    config = system.model.generation_config
    config.repetition_penalty, config.do_sample, config.temperature, config.max_length = 5.0, True, 3.0, 20
    try:
        again = Generator(system, learned / "data", 100).answer(samples)
    finally:
        config.repetition_penalty, config.do_sample, config.temperature, config.max_length = 1.0, False, 1.0, 20
    assert again == answers


def test_batches_hold_every_sample_once(samples):
    assert [len(some) for some in batches(samples, 3)] == [3, 1]
    assert [sample for some in batches(samples, 3) for sample in some] == samples
