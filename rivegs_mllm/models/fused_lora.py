"""LoRA's linear layers computed as one matrix product, for CPUs.

PEFT computes ``x W' + scaling * (x A') B'``: three products, and passes over the whole output to scale and add. On a
CPU with a small model those passes, and casts between the types of base and adapter, take a third of a step. Here the
weight ``W + scaling * B A`` is formed first, which costs nothing beside a batch, and used in one product; gradients
still go to A and B alone, in products of LoRA's rank.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, tuners
from torch.nn.functional import linear


class FusedLinear(tuners.lora.Linear):
    """PEFT's LoRA layer over ``nn.Linear``, the same parameters under the same names, with a faster ``forward``."""

    def forward(self, x: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        """(..., in) to (..., out), in the type of the base's weight."""
        name, *others = self.active_adapters
        # Whatever is not a single plain adapter in training is PEFT's own business.
        if self.disable_adapters or self.merged or others or arguments or options or self.lora_variant:
            return super().forward(x, *arguments, **options)
        base = self.get_base_layer()
        return _FusedProduct.apply(
            x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        )


class _FusedProduct(torch.autograd.Function):
    """``x (W + scaling * B A)'`` with gradients for x, A and B; W is frozen."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling):
        merged = torch.addmm(weight, b.to(weight.dtype), a.to(weight.dtype), alpha=scaling)
        ctx.save_for_backward(x, merged, a, b)
        ctx.scaling = scaling
        return linear(x, merged, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, merged, a, b = ctx.saved_tensors
        gradients = gradient.reshape(-1, gradient.shape[-1])
        rows = x.reshape(-1, x.shape[-1])
        of_x = (gradients @ merged).view(x.shape) if ctx.needs_input_grad[0] else None
        of_a = ((gradients @ b.to(gradients.dtype)).T @ rows).to(a.dtype).mul_(ctx.scaling)
        of_b = (gradients.T @ (rows @ a.to(rows.dtype).T)).to(b.dtype).mul_(ctx.scaling)
        return of_x, None, None, of_a, of_b, None


def use_fused_layers(lora: LoraConfig) -> None:
    """Lets PEFT make fused layers over ``nn.Linear``, where the settings allow it: no dropout, no bias."""
    if not (lora.lora_dropout or lora.lora_bias or lora.fan_in_fan_out):
        lora._register_custom_module({torch.nn.Linear: FusedLinear})
