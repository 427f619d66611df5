"""The parts of a dataset that training by a recipe would refuse, found without loading the model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.data.images import picture_size
from rivegs_mllm.models.base_model import load_without_weights
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.training.dataset.rows import dataset_of, greatest_length
from rivegs_mllm.training.pictures import measure_pictures
from rivegs_mllm.training.undecided import decided_posts
from rivegs_mllm.types import UserError


def refusals(path: Path, overrides: Sequence[str], folder: Path) -> Iterator[tuple[str, str]]:
    """What of the dataset in ``folder`` would be refused, as (file or folder, message).

    Posts whose picture is at fault are left out, since the audit's check of pictures lists them. Raises UserError for a
    recipe that is wrong, or whose tokenizer and processor are not available.
    """
    recipe = read_recipe(path, [*overrides, f"--data.folder={folder}"])
    processor, answer_format = load_without_weights(recipe)
    split = folder / f"{recipe.data.train}.jsonl"
    if recipe.train.eval_strategy != "no" and not (folder / f"{recipe.data.dev}.jsonl").is_file():
        yield str(folder), f"has no split {recipe.data.dev}, on which {path} evaluates; --train.eval_strategy=no"
    try:
        answer_format.check_processor(processor)
        samples = read_posts(folder, recipe.data.train, recipe.answer.types, recipe.distilled)
        samples = decided_posts(samples, recipe.answer.segments, recipe.data.train)
    except UserError as error:
        yield str(split), str(error)
        return
    sound = [sample for sample, fault in measure_pictures(samples, folder, picture_size) if not fault]
    dataset = dataset_of(recipe, sound, processor, answer_format)
    for sample in sound:
        try:
            length = greatest_length(dataset, sample)
        except UserError as error:
            yield str(split), str(error)
            continue
        if length > recipe.max_length:
            yield str(split), f"sample {sample.id}: has {length} tokens, and max_length is {recipe.max_length}"
