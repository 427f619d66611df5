"""A trained model to the hub: which files, with which card, in one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.models.adapter import answering_of, check_adapter_config, instruction_of, is_adapter
from rivegs_mllm.models.base_model import is_base
from rivegs_mllm.release.card import NAME as CARD
from rivegs_mllm.release.card import card
from rivegs_mllm.runtime.files import is_there
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

TOKEN = "HF_TOKEN"
PATTERNS = (
    "adapter_config.json",
    "adapter_model*.safetensors",
    "added_tokens.json",
    "calibration.json",
    "chat_template.jinja*",
    "config.json",
    "generation_config.json",
    "instruction.txt",
    "merges.txt",
    "metrics.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "*processor_config.json",
    "recipe.yaml",
    "rivegs_contract.json",
    "special_tokens_map.json",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.json",
)
"""What loading a model needs. A run's folder also holds checkpoints, logs and whatever its user has put there."""

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def check_push(repo: str) -> None:
    """Raises UserError for a name that no repository has, without a token, and where the hub is not to be asked."""
    if not _REPO.fullmatch(repo):
        raise UserError(f"{repo}: no name of a repository; it is ORG/NAME, of letters, digits, - _ and .")
    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it")
    if not os.environ.get(TOKEN):
        raise UserError(f"{TOKEN}: not set; make a token that may write at {constants.ENDPOINT}/settings/tokens")


def files_of(folder: Path) -> dict[str, bytes | Path]:
    """What is uploaded of a trained folder, by name; an adapter's card is written for it, its own being PEFT's draft.

    Raises UserError where the folder is incomplete, and for an adapter whose base only this machine has.
    """
    AnswerFormat.load(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found: dict[str, bytes | Path] = {
        name: folder / name for name in names if any(fnmatch(name, pattern) for pattern in PATTERNS)
    }
    if not any(name.endswith(".safetensors") for name in found):
        raise UserError(f"{folder}: has no weights in safetensors, so the model is incomplete")
    if is_adapter(folder):
        base = check_adapter_config(folder)
        if is_there(Path(base)) and not is_base(base, "tiny"):
            raise UserError(
                f"{folder}: its base is the folder {base}, which others do not have; push what it is merged "
                f"into: rivegs merge {folder} --out DIR"
            )
        found[CARD] = card(folder, answering_of(folder), instruction_of(folder), merged=False).encode()
    elif (folder / CARD).is_file():
        found[CARD] = folder / CARD
    return dict(sorted(found.items()))


def push(files: Mapping[str, bytes | Path], repo: str, private: bool) -> str:
    """Uploads the files in one commit, into a repository that is made where there is none, and returns its address.

    The token is that of the environment, and stands in no message. Raises UserError where the hub refuses, or is not
    reached.
    """
    token = os.environ[TOKEN]
    api = HfApi(token=token)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message="A model trained with RiVEGS-MLLM")
    except Exception as error:  # the hub's own, and those of its client's client
        raise UserError(f"{repo}: cannot be pushed: {one_line(error)}".replace(token, "***")) from None
    return str(address)
