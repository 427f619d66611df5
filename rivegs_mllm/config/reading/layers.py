"""A recipe laid over its bases, with overrides laid over it; every value has its source.

``base: FILE`` names another recipe, relative to the recipe's own folder, and the recipe is laid over that:
sections key by key, lists and values in place of the base's. ``null`` removes what the base says, and another
``type:`` drops the base's settings of that section. A base can have a base.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Union

from rivegs_mllm.config.check import resolve
from rivegs_mllm.config.reading.former_names import current, current_key, current_type
from rivegs_mllm.config.reading.shipped import find_recipe
from rivegs_mllm.config.reading.yaml_text import Written, read_file, read_value
from rivegs_mllm.types import UserError

OVERRIDE = "override"
DEFAULT_FOLDER = "default: runs/<recipe>"
DEFAULT_FOLDER_OF_DATA = "default: runs/<recipe>-<data>"

DEFAULTS = (DEFAULT_FOLDER, DEFAULT_FOLDER_OF_DATA)

_VARIANT = re.compile(r"\w[\w.+-]*")
_LONGEST = 400


class Sourced(NamedTuple):
    """A value that is not a section, and its source: a file, ``OVERRIDE`` or one of the defaults."""

    value: object
    source: str


Section = dict[str, Union["Section", Sourced]]


@dataclass(frozen=True)
class Layered:
    """A complete recipe. ``files`` are those it was read from, ``name`` is what errors call it."""

    path: Path
    name: str
    sections: Section
    files: tuple[Path, ...]

    @property
    def content(self) -> dict[str, object]:
        """The recipe as ``yaml_text`` reads one file."""
        return _content(self.sections)

    def without(self, keys: Collection[str]) -> Layered:
        """The same, but for some of its top keys."""
        kept = {key: own for key, own in self.sections.items() if key not in keys}
        return Layered(self.path, self.name, kept, self.files)

    def variants(self) -> dict[str, Layered]:
        """The recipes below ``variants``, by name; none where the file is one recipe."""
        return {
            name: Layered(self.path, f"{self.name}: variants.{name}", own, self.files)
            for name, own in self.sections.get("variants", {}).items()
        }

    def fault(self, message: str) -> UserError:
        """The error for a message that begins with a key, naming the file where the key was written."""
        own: Section | Sourced | None = self.sections
        for key in message.partition(":")[0].partition("[")[0].split("."):
            own = own.get(key) if isinstance(own, dict) else None
        while isinstance(own, dict):
            own = next(iter(own.values()), None)
        if isinstance(own, Sourced) and own.source not in (str(self.path), OVERRIDE, *DEFAULTS):
            return UserError(f"{own.source}: {message} (a base of {self.name})")
        return UserError(f"{self.name}: {message}")


def read_layers(path: Path | str, overrides: Sequence[str] = ()) -> Layered:
    """A recipe over its bases, overrides such as ``--train.seed=1`` laid over it. Raises UserError naming the file.

    A path below ``recipes/`` that does not exist names the recipe that is installed with the package.

    A base's ``train.output_dir`` is not handed down, or a run would end in the folder of another: where a recipe that
    trains names none, it is ``runs/<the file's name without its ending>``. With an override of ``data.folder`` and none
    of the output it is that with ``-<the data folder's name>``, so that a run on other data is another run.
    """
    path = find_recipe(Path(path))
    if path.name.startswith("_"):
        raise UserError(f"{path}: a base of other recipes, which name it by `base:`; run one of those")
    sections, files = _over_bases(path)
    if "variants" in sections:
        sections, files = _with_variants(path, sections, files)
    for override in overrides:
        for own in sections["variants"].values() if "variants" in sections else (sections,):
            _override(own, override)
    _name_folder(sections, path.stem)
    return Layered(path, str(path), sections, files)


def read_fitting(path: Path, overrides: Sequence[str], kinds: Sequence[Collection[str]]) -> Layered:
    """A recipe, or a file of variants, with those of the overrides that are for its kind.

    ``kinds`` are the top keys that recipes of each kind can have; what none has is an override of all, to be refused.
    """
    layered = read_layers(path)
    said = {key for own in layered.variants().values() or [layered] for key in own.sections}
    own = max(kinds, key=lambda keys: len(said & set(keys)))
    others = {key for keys in kinds for key in keys} - set(own)
    first = {override: override.removeprefix("--").partition("=")[0].partition(".")[0] for override in overrides}
    return read_layers(path, [override for override in overrides if first[override] not in others])


def word(content: dict, key: str) -> str | None:
    """The text that a key of a section has, None where it is missing or has none."""
    value = content.get(key)
    value = value.value if isinstance(value, Sourced) else value
    value = value.text if isinstance(value, Written) else value
    return value if isinstance(value, str) else None


def _over_bases(path: Path, named_by: str = "") -> tuple[Section, tuple[Path, ...]]:
    """A file laid over its bases, and the files read. ``named_by`` is the file and the key that name it."""
    chain = _chain(path, named_by)
    sections: Section = {}
    for own, content in reversed(chain):
        _drop_folder(sections)
        sections = _merged(sections, _sourced(content, str(own)))
    return sections, tuple(own for own, _ in chain)


def _chain(path: Path, named_by: str) -> list[tuple[Path, dict]]:
    """A file, its base, the base's base and so on, and what each says."""
    chain: list[tuple[Path, dict]] = []
    seen = set()
    while True:
        real = os.path.realpath(path)
        if real in seen:
            raise UserError(f"{named_by}: {path} leads back to this file; a chain of bases must end")
        seen.add(real)
        content = _load(path, named_by)
        chain.append((path, content))
        if "base" not in content:
            return chain
        named_by = f"{path}: base"
        path = _base_path(path.parent, resolve(Path, content.pop("base"), named_by))


def _base_path(folder: Path, named: Path) -> Path:
    """A base's path relative to the recipe that names it; where nothing is there and it begins with ``recipes/``, that
    of the recipe here or of the package."""
    own = folder / named
    return own if own.exists() or named.parts[:1] != ("recipes",) else find_recipe(named)


def _load(path: Path, named_by: str) -> dict[str, object]:
    where = f"{named_by}: {path}" if named_by else str(path)
    if path.suffix in (".jsonl", ".json"):
        raise UserError(f"{where}: not a recipe, which is a YAML file; predictions are scored by `rivegs evaluate`")
    try:
        content = read_file(path)
    except UserError as error:
        raise UserError(f"{named_by}: {error}" if named_by else str(error)) from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: not a recipe: it has no keys")
    if named_by and "variants" in content:
        raise UserError(f"{where}: holds variants, and a base is one recipe; name the base of one of them")
    try:
        return current(content, functools.partial(_warn, str(path)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@functools.cache  # once a name and file
def _warn(where: str, old: str, new: str) -> None:
    print(f"warning: {where}: {old} is now called {new}; the next version will not know {old}", file=sys.stderr)


def _with_variants(path: Path, sections: Section, files: Sequence[Path]) -> tuple[Section, tuple[Path, ...]]:
    """The sections with each variant laid over its base, and all files that were read.

    A variant is run and not trained, so that it keeps the trained folder of its base.
    """
    variants, *others = (sections.pop("variants"), *sections)
    if others:
        raise UserError(f"{path}: {others[0]}: a file of variants says nothing else; write it below one of them")
    if not isinstance(variants, dict) or not variants:
        raise UserError(f"{path}: variants: needs a name for each, and below it `base: FILE` and what differs")
    made: Section = {}
    read = list(files)
    for name, own in variants.items():
        key = f"{path}: variants.{name[:80]}"
        if not _VARIANT.fullmatch(name):
            raise UserError(f"{key}: a name has letters, digits, and . + - _ between them, for files are called by it")
        if not isinstance(own, dict) or not own:
            raise UserError(f"{key}: needs `base: FILE` and what differs, or a complete recipe")
        made[name], more = _variant(path, key, own)
        _name_folder(made[name], name)
        read += [file for file in more if file not in read]
    return {"variants": made}, tuple(read)


def _variant(path: Path, key: str, own: Section) -> tuple[Section, tuple[Path, ...]]:
    if "base" not in own:
        return own, ()
    base = own.pop("base")
    named = resolve(Path, base.value if isinstance(base, Sourced) else base, f"{key}.base")
    below, files = _over_bases(path.parent / named, f"{key}.base")
    if not named.name.startswith("_"):
        _name_folder(below, named.stem)
    return _merged(below, own), files


def _merged(below: Section, above: Section) -> Section:
    """One section laid over another."""
    kinds = {word(below, "type"), word(above, "type")} - {None}
    if len(kinds) == 2:  # another type does not know the settings of the base's
        return above
    made = dict(below)
    for key, own in above.items():
        under = below.get(key)
        if isinstance(own, dict) and isinstance(under, dict):
            made[key] = _merged(under, own)
        elif key in below and isinstance(own, Sourced) and isinstance(own.value, Written) and own.value.value is None:
            del made[key]
        else:
            made[key] = own
    return made


def _drop_folder(sections: Section) -> None:
    train = sections.get("train")
    if isinstance(train, dict):
        train.pop("output_dir", None)


def folder_for(stem: str, data: Path) -> Path:
    """The default folder of a run of the recipe called ``stem`` on the dataset in ``data``."""
    return Path(f"runs/{stem}-{data.absolute().name}")


def _name_folder(sections: Section, stem: str) -> None:
    train, data = _opened(sections.get("train")), sections.get("data")
    if not train:
        return
    output = train.get("output_dir", Sourced(f"runs/{stem}", DEFAULT_FOLDER))
    folder = data.get("folder") if isinstance(data, dict) else None
    if (
        isinstance(folder, Sourced)
        and folder.source == OVERRIDE
        and isinstance(output, Sourced)
        and output.source != OVERRIDE
    ):
        output = Sourced(str(folder_for(stem, Path(word(data, "folder") or "data"))), DEFAULT_FOLDER_OF_DATA)
    sections["train"] = {**train, "output_dir": output}


def _override(sections: Section, override: str) -> None:
    key, equals, value = override.removeprefix("--").partition("=")
    if not (override.startswith("--") and equals and key):
        raise UserError(f"{override[:_LONGEST]}: an override is written --key=value")
    warn = functools.partial(_warn, f"--{key}"[:_LONGEST])
    *above, last = (current_key(name, warn) for name in key.split("."))
    for name in above:
        below = _opened(sections.get(name))
        sections[name] = below
        sections = below
    read = current_type(read_value(value), warn) if last == "type" else current(read_value(value), warn)
    if last == "type" and word(sections, "type") != word({"type": read}, "type"):
        sections.clear()  # another type does not know the settings of this one
    sections[last] = Sourced(read, OVERRIDE)


def _opened(own: Section | Sourced | None) -> Section:
    """A section to write in: also one that an override gave in braces, and an empty one in place of a value."""
    if isinstance(own, Sourced):
        value = own.value.value if isinstance(own.value, Written) else own.value
        own = _sourced(value, own.source) if isinstance(value, dict) else None
    return own if isinstance(own, dict) else {}


def _sourced(value: object, by: str) -> Section | Sourced:
    return {key: _sourced(own, by) for key, own in value.items()} if isinstance(value, dict) else Sourced(value, by)


def _content(own: Section | Sourced) -> object:
    return own.value if isinstance(own, Sourced) else {key: _content(below) for key, below in own.items()}
