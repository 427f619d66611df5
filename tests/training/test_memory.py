"""The calculated memory: against published counts, against what autograd really keeps, and by hand."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, PreTrainedConfig, Qwen3VLConfig

import rivegs_mllm.training.memory as memory
from rivegs_mllm.cli.main import main
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.models.base_model import TINY_BASE
from rivegs_mllm.rehearsal.bases import BASES, qwen2_5_vl
from rivegs_mllm.types import UserError

RECIPES = Path(__file__).parents[2] / "recipes" / "e2e"
LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
SEVEN = "Qwen/Qwen2.5-VL-7B-Instruct"
NF4 = "--model.quantization=nf4"


def recipe(name: str, *overrides: str) -> Recipe:
    return read_recipe(RECIPES / name, ["--train.use_cpu=true", *overrides])


@pytest.mark.parametrize(
    ("base", "name", "parameters"),
    [
        (SEVEN, "qwen2_5_vl_7b.yaml", 8_292_166_656),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl_3b.yaml", 3_754_622_976),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl_8b.yaml", 8_767_123_696),
    ],
)
def test_parameters_are_those_that_the_hub_states(base, name, parameters):
    assert memory.estimate(BASES[base](), recipe(name)).parameters == parameters


def test_parts_of_a_7b_by_hand():
    parts = memory.estimate(BASES[SEVEN](), recipe("qwen2_5_vl_7b.yaml")).parts
    lora = 64 * 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert parts["base"] == 2 * 8_292_166_656
    assert (parts["adapter"], parts["gradients"], parts["optimizer"]) == (4 * lora, 4 * lora, 8 * lora)
    assert parts["logits"] == 4 * 256 * 152064 * 20

    divided = memory.estimate(BASES[SEVEN](), recipe("qwen2_5_vl_7b.yaml"), gpus=8, zero=3).parts
    assert divided["base"] == parts["base"] / 8
    assert divided["optimizer"] == 12 * lora / 8
    assert divided["activations"] == parts["activations"]


def test_nf4_quantises_the_language_model_but_not_the_head_or_the_tower():
    quantized = memory.estimate(BASES[SEVEN](), recipe("qwen2_5_vl_7b.yaml", NF4)).parts["base"]
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert quantized == pytest.approx(linear * memory.NF4_BYTES + (8_292_166_656 - linear) * 2)
    with pytest.raises(UserError, match="ZeRO-3"):
        memory.estimate(BASES[SEVEN](), recipe("qwen2_5_vl_7b.yaml", NF4), gpus=8, zero=3)


def test_location_tokens_count_twice_unless_the_embedding_is_tied():
    loc = ["--answer.encoding=loc", "--answer.bins=1000"]
    seven, three = BASES[SEVEN](), BASES["Qwen/Qwen2.5-VL-3B-Instruct"]()
    assert memory.new_rows(seven, recipe("qwen2_5_vl_7b.yaml", *loc)) == 2 * 1001 * 3584
    assert memory.new_rows(three, recipe("qwen2_5_vl_3b.yaml", *loc)) == 1001 * 2048
    assert memory.new_rows(seven, recipe("qwen2_5_vl_7b.yaml")) == 0
    added = memory.estimate(seven, recipe("qwen2_5_vl_7b.yaml", *loc)).parts["added rows"]
    assert added == 2 * (2 * 152064 * 3584)
    assert "added rows" not in memory.estimate(seven, recipe("qwen2_5_vl_7b.yaml")).parts


@pytest.mark.parametrize(("rows", "copies"), [(None, 0), ({"embed_tokens": [500, 501]}, 1)])
def test_the_output_layer_is_copied_where_rows_are_added(rows, copies):
    """PEFT writes the trained rows into a copy in every forward pass; its gradient is as large again."""
    model = AutoModelForImageTextToText.from_config(small("qwen2_5_vl"), dtype=torch.bfloat16)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=LINEAR, trainable_token_indices=rows))
    kept = kept_by_autograd(adapted, autocast=False)
    assert sum(tensor.numel() == 512 * 256 for tensor in kept) == copies


def test_checkpointing_and_the_vision_tower():
    seven = BASES[SEVEN]()
    kept = memory.estimate(seven, recipe("qwen2_5_vl_7b.yaml")).parts["activations"]
    without = recipe("qwen2_5_vl_7b.yaml", "--train.gradient_checkpointing=false")
    assert memory.estimate(seven, without).parts["activations"] > 10 * kept
    vision = memory.estimate(seven, recipe("qwen2_5_vl_7b_vision.yaml"))
    patches = vision.parts["activations"] - kept
    assert patches > 4 * 4096 * 32 * 1280 * 2
    assert vision.trainable > memory.estimate(seven, recipe("qwen2_5_vl_7b.yaml")).trainable


def small(family: str) -> PreTrainedConfig:
    if family == "qwen2_5_vl":
        config = qwen2_5_vl(256, 4, 2, 1, 768, 512, tied=True)
        config.vision_config.depth = 1
        return config
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]}
    text = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"head_dim": 128, "intermediate_size": 768, "vocab_size": 512, "rope_parameters": rope}
    tower = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 256}
    return Qwen3VLConfig(text_config=text, vision_config={**tower, "deepstack_visual_indexes": [0]})


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("autocast", [False, True])
def test_layer_bytes_are_what_autograd_keeps(family, autocast):
    """Without dropout: its mask takes a byte in CUDA's kernel, which the CPU has not."""
    torch.manual_seed(0)
    config = small(family)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    layers = model.get_decoder().layers
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=LINEAR), autocast_adapter_dtype=autocast)
    calculated = memory.layer_bytes(256, 128, config.get_text_config(), layers[0], dropout=0.0)
    four = bytes_kept(adapted, autocast)
    del layers[2:]
    two = bytes_kept(adapted, autocast)
    measured = (four - two) / 2 / 256
    assert measured <= 1.02 * calculated, "the adapters' own small products may stay uncounted, no more"
    assert calculated <= 1.25 * measured

    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = bytes_kept(adapted, autocast)
    assert checkpointed < two
    del layers[1:]
    assert checkpointed - bytes_kept(adapted, autocast) == 2 * 256 * 256


def bytes_kept(model: torch.nn.Module, autocast: bool) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in kept_by_autograd(model, autocast))


def kept_by_autograd(model: torch.nn.Module, autocast: bool) -> list[torch.Tensor]:
    """What a forward pass of 2 x 128 tokens keeps for the backward pass, but for the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    model.train()
    ids = torch.randint(0, 400, (2, 128))
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1)
        del outputs
    return [tensor for pointer, tensor in kept.items() if pointer not in weights]


def test_command(tmp_path, capsys):
    BASES["Qwen/Qwen2.5-VL-3B-Instruct"]().save_pretrained(tmp_path)
    name = str(RECIPES / "qwen2_5_vl_3b.yaml")
    assert main(["memory", name, "--gpus", "8", "--zero", "2", f"--model.base={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "GPUs: 8, ZeRO-2" in shown
    assert "3.75 G parameters" in shown
    assert main(["memory", name, "--model.base=/no/such/folder"]) == 2
    assert "model.base: /no/such/folder is no folder" in capsys.readouterr().err
    assert main(["memory", name, "--model.base=nobody/no-such-model"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: model.base: the config of nobody/no-such-model cannot be loaded")
    assert said.count("\n") == 1, "the library's message has lines of its own"
    assert main(["memory", name, f"--model.base={tmp_path}", "--model.max_pixels=null"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name}: model.max_pixels: missing, and it decides how many tokens a picture has; ")
    assert said.count("\n") == 1


def test_a_recipe_without_a_limit_has_that_of_its_base(tmp_path, capsys):
    own = tmp_path / "own.yaml"
    own.write_text("base: recipes/tiny/e2e.yaml\ntrain: {max_steps: 5}\n")
    assert main(["memory", str(own)]) == 0
    own_limit = capsys.readouterr().out
    said = json.loads((TINY_BASE / "processor_config.json").read_text())["image_processor"]["size"]["longest_edge"]
    assert main(["memory", str(own), f"--model.max_pixels={said}"]) == 0
    assert capsys.readouterr().out == own_limit
