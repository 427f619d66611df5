"""The systems of a comparison: recipes, the variants in a file, and one cascade with each stage replaced in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rivegs_mllm.cascade.base import SLOTS
from rivegs_mllm.cascade.config import (
    CascadeRecipe,
    as_cascade,
    check_requirements,
    missing_requirement,
    names_slot,
    type_name_of,
    type_names_of,
)
from rivegs_mllm.config.answering import Answering, answering
from rivegs_mllm.config.defaults.completed import completed_by_data, completed_by_model
from rivegs_mllm.config.reading.layers import Layered, read_fitting, read_layers
from rivegs_mllm.config.reading.yaml_print import as_yaml
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.config.trained import folder_of
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError

KINDS = [[field.name for field in dataclasses.fields(kind)] for kind in (CascadeRecipe, Recipe)]
"""The keys of the recipes that a comparison takes."""


@dataclass(frozen=True)
class ComparedSystem:
    """A recipe and the ``files`` it was read from. ``where`` is what errors and tables call it, ``weights`` the adapter
    of an end-to-end model, ``text`` the recipe in full."""

    where: str
    recipe: CascadeRecipe | Answering
    files: tuple[Path, ...]
    text: str
    weights: Path = Path()

    @property
    def types(self) -> list[str]:
        """The entity types that its predictions can have."""
        return list(self.recipe.types if isinstance(self.recipe, CascadeRecipe) else self.recipe.answer.types)


def read_systems(
    recipes: Sequence[Path],
    sweep: str | None = None,
    only: Sequence[str] = (),
    data: Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, ComparedSystem]:
    """The systems by name, in the order of ``recipes`` or, where given, of ``only``.

    A recipe is called by its file's name, variants by their own names. With ``sweep`` the one recipe is a cascade, and
    comes again with that type in each slot that has it, as ``<name>_<type>_<slot>``; ``none`` also leaves slots out.
    Such a system is left out where a stage would lack a field. Entity types that a recipe does not name are those of
    the dataset in ``data``. ``overrides`` are laid over each recipe that has such a key. Raises UserError for a recipe
    that cannot be read, or that is to be run and cannot be.
    """
    found: dict[str, ComparedSystem] = {}
    for name, layered in _swept(recipes, sweep, overrides) if sweep else _named(recipes, overrides):
        if name in found:
            raise UserError(f"{found[name].where} and {layered.name} have the same name, {name}; rename one")
        if names_slot(layered):
            layered = completed_by_data(layered, data)
            found[name] = ComparedSystem(layered.name, as_cascade(layered), layered.files, as_yaml(layered))
        else:
            weights = folder_of(layered, data)
            layered = completed_by_model(layered, weights, data)
            found[name] = ComparedSystem(layered.name, answering(layered), layered.files, as_yaml(layered), weights)
    for name in only:
        if name not in found:
            raise UserError(f"--only {name}: no such system; there are {shown(', '.join(found))}")
    systems = {name: found[name] for name in only} if only else found
    for system in systems.values():
        _check(system)
    return systems


def _named(recipes: Sequence[Path], overrides: Sequence[str]) -> Iterator[tuple[str, Layered]]:
    for path in recipes:
        layered = read_fitting(path, overrides, KINDS)
        yield from layered.variants().items() or [(path.stem, layered)]


def _check(system: ComparedSystem) -> None:
    if isinstance(system.recipe, CascadeRecipe):
        try:
            check_requirements(system.recipe)
        except UserError as error:
            raise UserError(f"{system.where}: {error}") from None


def _swept(recipes: Sequence[Path], kind: str, overrides: Sequence[str]) -> Iterator[tuple[str, Layered]]:
    """One cascade, and the cascade with each stage replaced."""
    if len(recipes) != 1:
        raise UserError(f"--sweep {kind}: goes with one recipe of a cascade, and there are {len(recipes)}")
    layered = read_layers(recipes[0], overrides)
    if not names_slot(layered):
        raise UserError(f"{layered.name}: --sweep {kind} replaces the stages of a cascade, and this recipe has none")
    recipe = as_cascade(layered)
    yield layered.path.stem, layered
    replaced = [(slot, own) for slot in SLOTS if (own := _replaced(layered, recipe, slot, kind, overrides))]
    if not replaced:
        known = [own for slot in SLOTS for own in type_names_of(slot)]
        shared = sorted(own for own in set(known) if known.count(own) > 1)
        raise UserError(f"--sweep {kind}: replaces no stage of {layered.name}; several slots have {', '.join(shared)}")
    for slot, own in replaced:
        yield f"{layered.path.stem}_{kind}_{slot}", own


def _replaced(
    layered: Layered, recipe: CascadeRecipe, slot: str, kind: str, overrides: Sequence[str]
) -> Layered | None:
    """The cascade with another type in a slot, None where that would be no other system or none that can run."""
    own = recipe.stages().get(slot)
    known = kind in type_names_of(slot)
    if (own is None and kind == "none") or (own is not None and type_name_of(own) == kind):
        return None
    if not known and kind != "none":
        return None
    override = f"--{slot}.type={kind}" if known else f"--{slot}=null"
    replaced = read_layers(layered.path, [*overrides, override])
    replaced = dataclasses.replace(replaced, name=f"{layered.name} {override}")
    try:
        recipe = as_cascade(replaced)
    except UserError as error:
        raise UserError(f"{error}; a type that needs settings is tried in a file of variants, not by --sweep") from None
    return None if missing_requirement(recipe) else replaced
