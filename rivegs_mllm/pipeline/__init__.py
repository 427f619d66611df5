"""A trained system, on one post or many: `load`."""

from rivegs_mllm.pipeline.load import load
from rivegs_mllm.pipeline.post import Post
from rivegs_mllm.pipeline.system import Pipeline

__all__ = ["Pipeline", "Post", "load"]
