"""What passes through a model while it is trained: where gradients come from and go to, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from rivegs_mllm.config.schema import ModelRecipe, Recipe
from rivegs_mllm.models.base_model import System, new_token_ids
from rivegs_mllm.rehearsal.check import FAULT, OK, Check

ADAPTER = ("lora_", "modules_to_save.", "trainable_tokens_")
"""One of these is in the name of each weight that an adapter trains."""


class Watch:
    """Notes what a training model does, until ``checks`` says it. To be made before the first step."""

    def __init__(self, system: System):
        self.system = system
        base = system.model.get_base_model()
        named = list(system.model.named_parameters())
        self.trained = [name for name, own in named if own.requires_grad]
        self.frozen = {name: own.detach().clone() for name, own in named if not own.requires_grad}
        self.greatest = dict.fromkeys(self.trained, 0.0)  # of each weight's gradient
        self.streams: set[torch.dtype] = set()
        self.from_tower = False
        for name, own in named:
            if own.requires_grad:
                own.register_hook(partial(self._note_gradient, name))
        base.get_decoder().norm.register_forward_pre_hook(self._note_stream)
        base.model.visual.merger.register_forward_hook(self._note_tower)

    def _note_gradient(self, name: str, gradient: torch.Tensor | None) -> None:
        if gradient is not None:  # as it is for what had no part in the loss
            self.greatest[name] = max(self.greatest[name], gradient.abs().max().item())

    def _note_stream(self, _: nn.Module, arguments: tuple) -> None:
        if torch.is_grad_enabled():
            self.streams.add(arguments[0].dtype)

    def _note_tower(self, _: nn.Module, __: tuple, output: torch.Tensor) -> None:
        self.from_tower |= output.requires_grad

    def checks(self, recipe: Recipe) -> Iterator[Check]:
        """What was seen in the steps since."""
        yield self._check_trained()
        yield self._check_frozen()
        yield self._check_precision(recipe.model)

    def _check_trained(self) -> Check:
        without = [name for name in self.trained if not self.greatest[name] > 0]
        tower = sum(".visual." in name for name in self.trained)
        if without:
            found = f"{len(without)} of {len(self.trained)} trained weights got none, such as {without[0]}"
            return Check(FAULT, "gradient", found, "lora names modules that the forward pass does not use; narrow it")
        found = f"at all {len(self.trained)} trained weights, {tower} of them in the vision tower"
        return Check(OK, "gradient", found)

    def _check_frozen(self) -> Check:
        others = [name for name in self.trained if not any(part in name for part in ADAPTER)]
        if others:
            found = f"{len(others)} weights of the base itself are trained, such as {others[0]}"
            return Check(FAULT, "frozen", found, "leave lora.bias at none, and freeze the base")
        now = dict(self.system.model.named_parameters())
        moved = [name for name, before in self.frozen.items() if not torch.equal(before, now[name].detach())]
        if moved:
            found = f"{len(moved)} weights of the base changed, such as {moved[0]}"
            return Check(FAULT, "frozen", found, "freeze them")
        if self.from_tower and not any(".visual." in name for name in self.trained):
            found = "gradient passes through the vision tower, in which nothing is trained"
            return Check(FAULT, "frozen", found, "run it without gradient: a fifth of the work, and gigabytes")
        return Check(OK, "frozen", f"{len(self.frozen)} weights of the base get no gradient and do not change")

    def _check_precision(self, model: ModelRecipe) -> Check:
        wanted = getattr(torch, model.dtype)
        if self.streams - {wanted}:
            seen = ", ".join(sorted(str(own).removeprefix("torch.") for own in self.streams))
            found = f"{seen} passes between the layers, and model.dtype is {model.dtype}"
            advice = "train.bf16 goes with bfloat16, train.fp16 with float16; else memory and time double unseen"
            return Check(FAULT, "precision", found, advice)
        return Check(OK, "precision", f"{model.dtype} between the layers")


@torch.no_grad()
def added_rows(system: System, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of tokens as the model uses them, of (tokens, width): as it reads them, and as it writes them."""
    base = system.model.get_base_model()
    read = base.get_input_embeddings()(torch.tensor(ids))
    # An adapter's layers have no weight of their own: what they do to each unit vector is their weight.
    one = torch.eye(read.shape[1], dtype=read.dtype)
    return read.clone(), base.get_output_embeddings()(one)[:, ids].T.clone()


def check_added_tokens(system: System, recipe: Recipe, before: tuple[torch.Tensor, torch.Tensor] | None) -> Check:
    """Whether the rows of added tokens are trained where the model reads and where it writes them.

    ``before`` is what ``added_rows`` gave when training began, None where no token is added.
    """
    if before is None:
        return Check(OK, "added tokens", "none")
    ids = new_token_ids(system, recipe.model)
    (read, written), (read_before, written_before) = added_rows(system, ids), before
    still = [
        name
        for name, now, then in (("embedding", read, read_before), ("output layer", written, written_before))
        if torch.equal(now, then)
    ]
    if still:
        found = f"the rows of {len(ids)} added tokens are not trained in the {' and the '.join(still)}"
        return Check(FAULT, "added tokens", found, "lora.trainable_token_indices must name both, unless they are tied")
    was_tied = torch.equal(read_before, written_before)
    if was_tied and not torch.equal(read, written):
        found = f"embedding and output layer are tied, and have other rows for {len(ids)} added tokens after training"
        advice = "lora.modules_to_save and lora.target_modules must not name one of them alone"
        return Check(FAULT, "added tokens", found, advice)
    words = "embedding and output layer are tied" if was_tied else "in embedding and output layer"
    return Check(OK, "added tokens", f"{len(ids)}, whose rows are trained ({words})")
