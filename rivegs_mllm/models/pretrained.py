"""Pretrained models of the stages, from the hub or from disk; a missing weight is an error."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin

from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError


def load_pretrained(
    kind: type, name: str, revision: str | None, families: Mapping[str, type], stage: str
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Model and processor of a hub id or folder, in float32 and evaluation mode.

    ``kind`` is the class that loads the model, such as an AutoModel; ``families`` are the model types that are
    accepted, with the class that loads the processor of each; ``stage`` names slot and type in messages. Raises
    UserError for a model that is not there, is of another family or lacks weights.
    """
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"{stage}: {name} is no folder; give a hub id, or a folder with config.json and safetensors")
    try:
        family = AutoConfig.from_pretrained(name, revision=revision).model_type
        if family not in families:
            raise UserError(f"{stage}: {name} is a {family}; known are {', '.join(families)}")
        model, info = kind.from_pretrained(
            name, revision=revision, dtype="float32", use_safetensors=True, output_loading_info=True
        )
        processor = families[family].from_pretrained(name, revision=revision)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{stage}: {name} cannot be loaded: {one_line(error)}") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{stage}: the checkpoint of {name} lacks {len(missing)} weights, such as {missing[0]}")
    return model.eval(), processor


def own_files(name: str) -> tuple[Path, ...]:
    """The model's folder where ``name`` is one, nothing for a hub id: for ``DependsOnFiles``."""
    return (Path(name),) if Path(name).is_dir() else ()


_PACKAGE = "package:"


def resolve_model_path(name: str) -> str:
    """A hub id or a folder as it is; ``package:NAME/FOLDER`` is that folder inside an installed package.

    The package is not imported. Raises UserError where it is not installed.
    """
    if not name.startswith(_PACKAGE):
        return name
    package, _, inner = name.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"{name}: the package {package!r} is not installed; `pip install` it")
    return str(Path(spec.origin).parent / inner)
