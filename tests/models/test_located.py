"""Models by hub id, by folder, and inside a package."""

from pathlib import Path

import pytest

import rivegs_mllm
from rivegs_mllm.models.pretrained import resolve_model_path
from rivegs_mllm.types import UserError


def test_where_a_model_is():
    assert resolve_model_path("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert resolve_model_path("models/own") == "models/own"
    assert (
        Path(resolve_model_path("package:rivegs_mllm/tiny/base")) == Path(rivegs_mllm.__file__).parent / "tiny" / "base"
    )
    assert Path(resolve_model_path("package:rivegs_mllm")) == Path(rivegs_mllm.__file__).parent


def test_package_that_is_not_there():
    with pytest.raises(UserError, match="'no_such_package' is not installed"):
        resolve_model_path("package:no_such_package/model")
