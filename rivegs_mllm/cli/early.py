"""What can be wrong with a command's recipe, data and model, found before any library of models is imported.

Those take seconds to import. Keys and values are held against a table of them (``config.key_table``), and the files
that the recipe names are looked for; whatever is left, the command finds where it does its work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cascade.base import SLOTS
from rivegs_mllm.config.defaults.completed import completed_by_data, completed_by_model
from rivegs_mllm.config.key_table import key_table
from rivegs_mllm.config.reading.layers import Layered, Section, read_fitting, read_layers, word
from rivegs_mllm.config.reading.shipped import find_recipe
from rivegs_mllm.config.reading.yaml_loader import decode
from rivegs_mllm.config.trained import check_base, check_hub_id, folder_of, is_hub_id
from rivegs_mllm.data.jsonl import check_split
from rivegs_mllm.runtime.files import is_there
from rivegs_mllm.runtime.logs import check_installed

MODEL, STAGE, CASCADE, ANSWERING = "Recipe", "StageTraining", "CascadeRecipe", "Answering"
DISTILL, PSEUDO_LABELS, PROPOSALS = "DistillRecipe", "PseudoLabelRecipe", "ProposalRecipe"

_MODULES = {
    ("model", "quantization", "nf4"): "bitsandbytes",
    ("tagger", "type", "crf"): "torchcrf",
    ("tagger", "type", "umt"): "torchcrf",
    ("stage", "type", "crf"): "torchcrf",
    ("stage", "type", "umt"): "torchcrf",
    ("segmenter", "type", "segment_anything"): "segment_anything",
    ("stage", "type", "segment_anything"): "segment_anything",
    ("teacher", "type", "openai"): "aiohttp",
}
"""What not every installation has, by section, key and value that need it."""


def check_training(path: Path, overrides: Sequence[str]) -> None:
    """For `train`: an end-to-end model's recipe, or a stage's, with the data that it names."""
    layered = read_layers(path, overrides)
    kind = STAGE if "stage" in layered.sections else MODEL
    read = check_keys(layered, kind)
    _check_data(layered)
    completed_by_data(layered)
    if kind == MODEL and (init := word(layered.sections, "init")) and not is_hub_id(init):
        AnswerFormat.load(init)
    if kind == STAGE:
        _check_paths(layered, read, ("stage",))


def check_model_recipe(path: Path, overrides: Sequence[str], data: Path | None = None) -> None:
    """For what looks at the recipe of an end-to-end model; ``data`` is a dataset in the place of its own, whose faults
    are found otherwise."""
    layered = read_layers(path, [*overrides, *([f"--data.folder={data}"] if data else [])])
    check_keys(layered, MODEL)
    if data is None:
        _check_data(layered)
    completed_by_data(layered)


def check_system(layered: Layered) -> None:
    """A cascade or an end-to-end model that is to answer posts: all but its weights."""
    if not layered.sections.keys().isdisjoint(SLOTS):
        _check_paths(layered, check_keys(layered, CASCADE), SLOTS)
        return
    fields = [{own.name for own in dataclasses.fields(key_table().recipes[kind])} for kind in (MODEL, ANSWERING)]
    check_keys(layered.without(fields[0] - fields[1]), ANSWERING)


def check_prediction(
    path: Path, overrides: Sequence[str], data: Path, split: str, adapter: Path | None, base: bool
) -> None:
    """For `predict`: the recipe, the posts, and the trained folder, unless ``base`` says that there is none."""
    layered = read_layers(path, overrides)
    check_system(layered)
    check_split(data, split)
    if layered.sections.keys().isdisjoint(SLOTS) and not base:
        if adapter is not None and is_hub_id(adapter):
            return  # what it says is known when it has been fetched
        trained = adapter or folder_of(layered, data)
        AnswerFormat.load(trained)
        completed_by_model(layered, trained, data)


def check_source(name: Path | str, overrides: Sequence[str]) -> None:
    """For `try`: a trained folder, the recipe of a trained model or of a cascade, or a hub id."""
    path = Path(name)
    if is_recipe(path):
        layered = read_layers(path, overrides)
        check_system(layered)
        if layered.sections.keys().isdisjoint(SLOTS):
            AnswerFormat.load(folder_of(layered))
    elif is_there(path) and path.is_dir():
        AnswerFormat.load(path)
    else:
        check_hub_id(str(name))


def check_run(run: Path | str, overrides: Sequence[str]) -> Path | None:
    """For `merge` and `push`: as for `try`, but no cascade. Returns the folder, None for a hub id."""
    check_source(run, overrides)
    if not is_recipe(run):
        return None if is_hub_id(run) else Path(run)
    layered = read_layers(run, overrides)
    if not layered.sections.keys().isdisjoint(SLOTS):
        raise layered.fault("a recipe of a cascade, whose stages are models of their own; name one of these")
    return folder_of(layered)


def is_recipe(source: Path | str) -> bool:
    """Whether what is to be loaded is named by a recipe."""
    return Path(source).suffix in (".yaml", ".yml")


def check_comparison(
    paths: Sequence[Path], overrides: Sequence[str], data: Path, split: str, only: Collection[str]
) -> None:
    """For `compare`: every recipe whose systems are to be run, all where ``only`` names none, and the posts."""
    kinds = [[own.name for own in dataclasses.fields(key_table().recipes[kind])] for kind in (CASCADE, MODEL)]
    for path in paths:
        layered = read_fitting(path, overrides, kinds)
        for name, own in (layered.variants() or {path.stem: layered}).items():
            if not only or name in only:
                check_system(own)
    check_split(data, split)


def check_distillation(path: Path, overrides: Sequence[str]) -> None:
    """For `distill`: a teacher's recipe or that of pseudo-labels, with the data that it names."""
    layered = read_layers(path, overrides)
    pseudo_labels = not layered.sections.keys().isdisjoint(("cascade", "predictions"))
    check_keys(layered, PSEUDO_LABELS if pseudo_labels else DISTILL)
    data = layered.sections.get("data")
    if folder := word(data, "folder") if isinstance(data, dict) else None:
        splits = data.get("splits")
        for split in splits.value if splits and isinstance(splits.value, list) else ("train",):
            check_split(Path(folder), str(split))
    if not pseudo_labels:
        check_installed("pyarrow")


def check_proposals(path: Path, overrides: Sequence[str], data: Path, splits: Sequence[str]) -> None:
    """For `propose`."""
    check_keys(read_layers(path, overrides), PROPOSALS)
    for split in splits:
        check_split(data, split)


def check_keys(layered: Layered, kind: str) -> object:
    """What the recipe says, as a dataclass of the same fields as its own. Raises UserError for a key or a value that is
    wrong, and where it needs a library that is not installed.

    Where a library is of another version than the table's, settings that the table has not are left to the library.
    """
    table = key_table()
    read = decode(table.recipes[kind], dataclasses.replace(layered, sections=_known(layered.sections, table.other)))
    for (section, key, value), module in _MODULES.items():
        own = layered.sections.get(section)
        if isinstance(own, dict) and word(own, key) == value:
            check_installed(module)
    model = layered.sections.get("model")
    if isinstance(model, dict) and (base := word(model, "base")):
        check_base(base)
    return read


def _known(sections: Section, other: Mapping[str, Collection[str]]) -> Section:
    """The sections, of those in ``other`` only the keys that it has."""
    made: Section = {}
    for key, own in sections.items():
        if isinstance(own, dict):
            kept = own if key not in other else {name: value for name, value in own.items() if name in other[key]}
            own = _known(kept, other)
        made[key] = own
    return made


def _check_data(layered: Layered) -> None:
    """Raises UserError where a split that training reads is not there."""
    data, train = layered.sections["data"], layered.sections["train"]
    folder = Path(word(data, "folder"))
    check_split(folder, word(data, "train") or "train")
    if word(train, "eval_strategy") not in (None, "no"):
        check_split(folder, word(data, "dev") or "dev")
    if test := word(data, "test"):
        check_split(folder, test)


def _check_paths(layered: Layered, read: object, names: Collection[str]) -> None:
    """Raises UserError for a file or folder that settings below ``names`` are to read and that is not there."""
    for name in names:
        for key, path in _paths(vars(read)[name], name):
            if not is_there(find_recipe(path)) and not (key.endswith(".adapter") and is_hub_id(path)):
                raise layered.fault(f"{key}: {path}: no such file or folder")


def _paths(value: object, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, list):
        for own in value:
            yield from _paths(own, key)
    elif dataclasses.is_dataclass(value):
        for own in dataclasses.fields(value):
            yield from _paths(getattr(value, own.name), f"{key}.{own.name}")
