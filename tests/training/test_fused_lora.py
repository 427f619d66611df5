"""The fused LoRA layer computes what PEFT's own computes: outputs, gradients, saved weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from rivegs_mllm.models.fused_lora import FusedLinear, use_fused_layers


class Block(nn.Module):
    def __init__(self, bias: bool):
        super().__init__()
        self.first = nn.Linear(12, 20, bias=bias)
        self.second = nn.Linear(20, 8, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def adapted(fused: bool, bias: bool = True, dtype: torch.dtype = torch.float32, **settings: object):
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=6, target_modules=["first", "second"], init_lora_weights=False, **settings)
    if fused:
        use_fused_layers(lora)
    return get_peft_model(Block(bias).to(dtype), lora)


def fused_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, FusedLinear)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)])
def test_outputs_and_gradients_are_those_of_peft(bias, shape):
    ours, theirs = adapted(True, bias), adapted(False, bias)
    assert len(fused_layers(ours)) == 2
    x = torch.randn(shape)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [model(value) for model, value in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output**2).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    expected = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        assert value.requires_grad == expected[name].requires_grad, name
        if value.requires_grad:
            torch.testing.assert_close(value.grad, expected[name].grad, msg=name)


def test_gradients_are_the_derivatives_of_the_output():
    layer = fused_layers(adapted(True, dtype=torch.float64))[0].double()
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def output(x, a, b):
        with torch.no_grad():
            assert layer.scaling["default"] == 1.5
        return nn.functional.linear(x, layer.base_layer.weight + 1.5 * b @ a, layer.base_layer.bias)

    upstream = torch.randn(3, 20, dtype=torch.float64)
    expected = torch.autograd.grad(output(x, a, b), (x, a, b), upstream)
    found = torch.autograd.grad(layer(x), (x, a, b), upstream)
    torch.testing.assert_close(found, expected)


def test_a_bfloat16_base_keeps_float32_adapters_and_gradients():
    model = adapted(True, dtype=torch.bfloat16)
    output = model(torch.randn(5, 12, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    trained = [value for value in model.parameters() if value.requires_grad]
    assert {value.dtype for value in trained} == {value.grad.dtype for value in trained} == {torch.float32}


def test_weights_are_saved_under_the_same_names():
    assert get_peft_model_state_dict(adapted(True)).keys() == get_peft_model_state_dict(adapted(False)).keys()


def test_disabled_and_merged_adapters_do_what_they_do_in_peft():
    ours, theirs = adapted(True), adapted(False)
    x = torch.randn(5, 12)
    with ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(x), theirs(x))
    before = ours(x)
    ours.merge_adapter()
    torch.testing.assert_close(ours(x), before)
    ours.unmerge_adapter()
    torch.testing.assert_close(ours(x), before)


def test_a_variant_of_lora_is_left_to_peft():
    ours, theirs = adapted(True, use_dora=True), adapted(False, use_dora=True)
    torch.testing.assert_close(ours(x := torch.randn(5, 12)), theirs(x))


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"lora_bias": True}])
def test_settings_that_it_does_not_know_use_no_fused_layers(settings):
    assert not fused_layers(adapted(True, **settings))
