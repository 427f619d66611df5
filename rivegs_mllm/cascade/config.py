"""The cascade: its recipe, and its run over all posts.

Stages get the samples without their gold, but for oracle stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import draccus

from rivegs_mllm.cascade.base import (
    REQUIRED_SLOTS,
    SLOTS,
    DependsOnFiles,
    RequiresOnly,
    RequiresSlots,
    SharedModel,
    Stage,
    StageError,
    StageRecipe,
)
from rivegs_mllm.cascade.checkpoint import METADATA_FILE
from rivegs_mllm.cascade.entailment.base import Entailment
from rivegs_mllm.cascade.grounding.base import Grounder
from rivegs_mllm.cascade.knowledge.base import Knowledge
from rivegs_mllm.cascade.knowledge.expansion import Expander
from rivegs_mllm.cascade.runner import LoadedModels, StageReport, Step, file_fingerprints, run_steps
from rivegs_mllm.cascade.segmentation.base import Segmenter
from rivegs_mllm.cascade.tagging.base import Tagger
from rivegs_mllm.config.bounds import BatchSize, check_bounds
from rivegs_mllm.config.defaults.types import with_dataset_types
from rivegs_mllm.config.reading.layers import Layered, read_layers
from rivegs_mllm.config.reading.yaml_loader import decode
from rivegs_mllm.data.jsonl import write_records
from rivegs_mllm.runtime.files import is_there
from rivegs_mllm.runtime.foreign import loading, read_object
from rivegs_mllm.types import TYPES, Prediction, Sample, UserError

_CURES = {
    "knowledge": "`type: none` goes without",
    "tagger": "such as `type: mllm`",
    "expander": "`type: none` goes without",
    "entailment": "`type: always` takes every entity for visible",
    "grounder": "such as `type: mllm`",
}


@dataclass
class CascadeRecipe:
    """One stage a slot, null to skip the slot. ``types`` is what a tagger may name.

    ``batch_size`` is how many posts a stage is given before its partial predictions are written to disk; a stage with
    a model has a batch size of its own.
    """

    knowledge: Knowledge | None = None
    tagger: Tagger | None = None
    expander: Expander | None = None
    entailment: Entailment | None = None
    grounder: Grounder | None = None
    segmenter: Segmenter | None = None
    types: list[str] = field(default_factory=lambda: list(TYPES))
    batch_size: BatchSize = 64

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.types:
            raise UserError("types: empty; name the types of entities")

    def stages(self) -> dict[str, StageRecipe | SharedModel]:
        """The stages that are there, by slot, in the order in which they are run."""
        slots = (self.knowledge, self.tagger, self.expander, self.entailment, self.grounder, self.segmenter)
        return {slot: choice for slot, choice in zip(SLOTS, slots, strict=True) if choice is not None}


def is_cascade(path: Path | str) -> bool:
    """Whether the recipe is one of a cascade: it names a slot at its top. Raises UserError where it cannot be read."""
    return names_slot(read_layers(path))


def names_slot(layered: Layered) -> bool:
    """Whether a slot is named at the top of what layers say."""
    return not layered.sections.keys().isdisjoint(SLOTS)


def read_cascade(path: Path | str, overrides: Sequence[str] = (), data: Path | None = None) -> CascadeRecipe:
    """The recipe in a YAML file, with overrides such as ``--grounder.type=gold`` or ``--expander=null``.

    Another type for a slot lets its settings go. Entity types that the recipe does not name are those of the dataset in
    ``data``. Raises UserError that names the file and the key for a key that is unknown or a value that does not fit.
    """
    return as_cascade(with_dataset_types(read_layers(path, overrides), data))


def as_cascade(layered: Layered) -> CascadeRecipe:
    """The recipe that layers say; where they say no types, these are those of its trained stages. Raises UserError as
    ``read_cascade`` does."""
    recipe = decode(CascadeRecipe, layered)
    if "types" not in layered.sections and (types := _trained_types(recipe)):
        recipe = dataclasses.replace(recipe, types=types)
    recipe = _with_shared_types(recipe)
    if not recipe.stages():
        raise UserError(f"{layered.name}: no slot has a stage; the slots are {', '.join(SLOTS)}")
    return recipe


def _trained_types(recipe: CascadeRecipe) -> list[str]:
    """The types that the first trained stage was trained on, none where there is none; what is wrong with its files is
    told where they are loaded."""
    for path in (path for choice in recipe.stages().values() for path in _paths(choice)):
        if is_there(path / METADATA_FILE):
            types = read_object(path / METADATA_FILE, "train the stage again").get("types")
            return types if type(types) is list and all(type(name) is str for name in types) else []
    return []


def _with_shared_types(recipe: CascadeRecipe) -> CascadeRecipe:
    """The recipe with its entity types in each stage that has such a setting and does not say others."""
    own = {
        slot: dataclasses.replace(choice, types=recipe.types)
        for slot, choice in recipe.stages().items()
        if "types" in [field.name for field in dataclasses.fields(choice)] and choice.types is None
    }
    return dataclasses.replace(recipe, **own)


def check_requirements(recipe: CascadeRecipe) -> None:
    """Raises StageError for a stage that needs a field which no stage before it fills."""
    if message := missing_requirement(recipe):
        raise StageError(message)


def missing_requirement(recipe: CascadeRecipe) -> str:
    """The message about a stage that needs what no stage before it fills; "" where none does.

    Raises UserError where a stage's trained files, which say what it needs, cannot be read.
    """
    stages = recipe.stages()
    for slot, choice in stages.items():
        for need in _requirements(slot, choice):
            if need not in stages:
                return (
                    f"{slot} ({type_name_of(choice)}): needs what the slot '{need}' fills, but that is null; "
                    f"give it a stage ({_CURES[need]}), or choose another type for {slot}"
                )
    return ""


def _requirements(slot: str, choice: StageRecipe | SharedModel) -> tuple[str, ...]:
    """The slots that must be filled for a stage."""
    own = choice.requires_only() if isinstance(choice, RequiresOnly) else REQUIRED_SLOTS[slot]
    if isinstance(choice, SharedModel):
        return (*own, *choice.requires_in(slot))
    return (*own, *(choice.requires() if isinstance(choice, RequiresSlots) else ()))


def type_names_of(slot: str) -> list[str]:
    """The types that a slot can have."""
    kind = {
        "knowledge": Knowledge,
        "tagger": Tagger,
        "expander": Expander,
        "entailment": Entailment,
        "grounder": Grounder,
        "segmenter": Segmenter,
    }[slot]
    return sorted(kind.get_known_choices())


def type_name_of(choice: StageRecipe | SharedModel) -> str:
    """The ``type:`` that a stage is chosen by."""
    return choice.get_choice_name(type(choice))


def run_cascade(
    recipe: CascadeRecipe, samples: Sequence[Sample], folder: Path, out: Path
) -> tuple[list[Prediction], list[StageReport]]:
    """The predictions for all samples, in order, and what each stage cost, also saved as ``out/stages.json``.

    ``folder`` is what pictures are relative to, ``out`` the work folder. Raises StageError where a slot needs a field
    that no slot fills, before anything is run, and where a stage breaks the contract; UserError where ``out`` holds
    another run.
    """
    check_requirements(recipe)
    settings = draccus.encode(recipe)
    del settings["batch_size"]  # changes no answer, so an interrupted run may resume with another
    settings["files"] = file_fingerprints(_files(recipe))
    return run_steps(steps_of(recipe, folder), samples, out, recipe.batch_size, settings, recipe.types)


def steps_of(recipe: CascadeRecipe, folder: Path) -> list[Step]:
    """The recipe's stages in order, to be loaded. ``folder`` is what pictures are relative to."""
    return [_step(slot, choice, folder) for slot, choice in recipe.stages().items()]


def _step(slot: str, choice: StageRecipe | SharedModel, folder: Path) -> Step:
    """A stage to be loaded: StageError in one line for files that cannot be loaded, whatever they are."""
    files = ", ".join(map(str, _paths(choice)))
    name = f"{slot} ({type_name_of(choice)}){': ' * bool(files)}{files}"
    key = choice.model_key() if isinstance(choice, SharedModel) else None

    def load(models: LoadedModels) -> Stage:
        with loading(name, StageError):
            if key is None:
                return choice.load(folder)
            if key not in models:
                models[key] = choice.load_model(folder)
            return choice.stage_in(slot, models[key])

    return Step(slot, type_name_of(choice), load, choice.SEES_GOLD, key)


def predict_cascade(
    recipe: CascadeRecipe, samples: Sequence[Sample], folder: Path, out: Path
) -> tuple[list[Prediction], list[StageReport]]:
    """As ``run_cascade``, the predictions written to ``out``, the work folder beside it as ``<out>.stages``."""
    predictions, reports = run_cascade(recipe, samples, folder, out.with_name(f"{out.name}.stages"))
    write_records(out, predictions)
    return predictions, reports


def _files(recipe: CascadeRecipe) -> Iterator[Path]:
    """The files and folders that the stages' answers depend on."""
    for choice in recipe.stages().values():
        yield from _paths(choice)
        if isinstance(choice, DependsOnFiles):
            yield from choice.files()


def _paths(value: object) -> Iterator[Path]:
    """The paths among the settings of a stage."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, (list, tuple)):
        for own in value:
            yield from _paths(own)
    elif dataclasses.is_dataclass(value):
        for own in dataclasses.fields(value):
            yield from _paths(getattr(value, own.name))
