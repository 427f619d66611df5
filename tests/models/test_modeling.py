"""What is trained and what is not, and adapters saved, loaded again, or refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from tiny_base import make_recipe, save_base, texts
from transformers import set_seed

from rivegs_mllm.answer.format import FILE_NAME
from rivegs_mllm.config.schema import ModelRecipe
from rivegs_mllm.models.adapter import load_adapter
from rivegs_mllm.models.base_model import TINY_BASE, is_base, load_base
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.train import AnswerTrainer, make_trainer
from rivegs_mllm.training.run.folder import settings_of, trainer_arguments
from rivegs_mllm.types import UserError

BINS = 100  # the base knows the tokens of 64
SHORT = ("--train.max_steps=3", "--data.train=dev", "--train.per_device_train_batch_size=3")


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


class Run:
    """A short run: the base's own weights, those before and after, and the folder of the adapter."""

    def __init__(self, folder: Path, base: Path, data: Path, *overrides: str):
        self.base = base
        self.recipe = make_recipe(folder, base, data, *SHORT, *overrides)
        set_seed(0)
        self.trainer: AnswerTrainer = make_trainer(self.recipe)
        self.before = parameters(self.trainer.model)
        self.trainer.train()
        self.after = parameters(self.trainer.model)
        self.out = Path(self.recipe.train.output_dir)
        self.trainer.save_model(str(self.out))
        self.trained = {name for name, value in self.trainer.model.named_parameters() if value.requires_grad}


@pytest.fixture(scope="module", params=["tied", "untied", "tied and flat", "untied and flat"])
def run(request, tmp_path_factory, emblems) -> Run:
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    tied, flat = not request.param.startswith("untied"), request.param.endswith("flat")
    base = save_base(folder / "base", texts(emblems), tied, flat)
    return Run(folder, base, emblems, f"--answer.bins={BINS}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, base, emblems) -> Run:
    """A run on the base that knows every location token."""
    return Run(tmp_path_factory.mktemp("plain"), base, emblems)


@pytest.fixture
def adapter(plain, tmp_path) -> Path:
    """A copy of the plain run's adapter."""
    return shutil.copytree(plain.out, tmp_path / "adapter")


def test_every_trained_parameter_moves_and_no_frozen_one(run):
    assert sum("lora_" in name for name in run.trained) == 2 * 7 * 2  # layers, modules, A and B
    rows = [name for name in run.trained if "lora_" not in name]
    assert len(rows) == (1 if run.base.parent.name.startswith("tied") else 2)
    for name in run.trained:
        assert not torch.equal(run.before[name], run.after[name]), name
    for name in run.before.keys() - run.trained:
        assert torch.equal(run.before[name], run.after[name]), name


def test_only_the_rows_of_new_tokens_are_trained(run):
    tokenizer = run.trainer.system.processor.tokenizer
    new = tokenizer.convert_tokens_to_ids([f"<loc_{number}>" for number in range(65, BINS + 1)])
    assert new == list(range(min(new), min(new) + 36))
    for name in run.trained:
        if "lora_" not in name:
            assert run.after[name].shape == (36, 256), name
            assert (run.before[name] != run.after[name]).any(1).sum() == 36 or "lm_head" not in name
    old = load_file(run.base / "model.safetensors")["model.embed_tokens.weight"]
    embed = run.trainer.model.get_input_embeddings()
    with torch.no_grad():
        assert torch.equal(embed(torch.arange(len(old))), old)
        [delta] = [value for name, value in run.after.items() if name in run.trained and "embed_tokens" in name]
        assert torch.equal(embed(torch.tensor(new)), delta)


def test_the_output_layer_uses_the_trained_rows(run):
    model = run.trainer.model
    first = run.trainer.system.processor.tokenizer.convert_tokens_to_ids("<loc_65>")
    ids = torch.tensor([[5, 6, 7]])
    rows = {name: value for name, value in model.named_parameters() if name in run.trained and "lora_" not in name}
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for value in rows.values():
            value[0] += 1
        after = model(input_ids=ids).logits
        for name, value in rows.items():
            value.copy_(run.after[name])
    others = [number for number in range(before.shape[-1]) if number != first]
    assert (before[..., first] != after[..., first]).all()
    assert torch.equal(before[..., others], after[..., others])


def test_a_loaded_adapter_answers_as_the_trained_model(run, emblems):
    loaded = load_adapter(run.out, run.recipe)
    trainer = run.trainer
    rows = trainer.data_collator([trainer.train_dataset[index] for index in range(3)])
    del rows["labels"], rows["weights"]
    answers = []
    logits = []
    for system in (trainer.system, loaded):
        system.model.eval()
        with torch.no_grad():
            logits.append(system.model(**rows).logits)
        answers.append(Generator(system, emblems, 12).answer(trainer.train_dataset.samples))
    assert torch.equal(*logits)
    assert answers[0] == answers[1]
    assert loaded.answer_format == trainer.system.answer_format
    assert loaded.instruction == trainer.system.instruction
    base = load_base(run.recipe)
    base.model.eval()
    with torch.no_grad():
        assert not torch.allclose(base.model(**rows).logits, logits[0], atol=1e-3)


def test_the_adapter_folder_holds_the_adapter_alone_and_no_pickle(run):
    assert {path.name for path in run.out.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "instruction.txt",
        "processor_config.json",
        "recipe.yaml",
        "rivegs_contract.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    saved = load_file(run.out / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == sum(run.after[name].numel() for name in run.trained)


def test_checkpointing_gradients_changes_nothing(plain, base, emblems, tmp_path):
    saving = Run(tmp_path, base, emblems, "--train.gradient_checkpointing=true")
    assert saving.trainer.model.is_gradient_checkpointing
    for name in plain.trained:
        assert torch.allclose(plain.after[name], saving.after[name], atol=1e-6), name
    assert not features(saving).requires_grad
    whole = "--lora.target_modules=.*(q_proj|v_proj|qkv)"
    seeing = Run(tmp_path / "seeing", base, emblems, "--train.gradient_checkpointing=true", whole)
    assert features(seeing).requires_grad
    assert sum(".visual." in name for name in seeing.trained) == 2 * 2  # layers, A and B


def features(run: Run) -> torch.Tensor:
    """What the vision tower says of a picture, in a model as it is trained."""
    trainer = run.trainer
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[0]])
    return trainer.model.get_base_model().model.visual(batch["pixel_values"], batch["image_grid_thw"]).pooler_output


def test_liger_leaves_the_loss_alone(base, emblems, tmp_path):
    recipe = make_recipe(tmp_path, base, emblems, "--train.use_liger_kernel=true")
    assert trainer_arguments(recipe.train).liger_kernel_config == {
        "fused_linear_cross_entropy": False,
        "cross_entropy": False,
    }
    recipe.train.liger_kernel_config = {"rope": True, "fused_linear_cross_entropy": True}
    with pytest.raises(UserError, match=r"train\.liger_kernel_config\.fused_linear_cross_entropy"):
        trainer_arguments(recipe.train)


def test_of_several_gpus_a_process_uses_one_and_says_so(base, emblems, tmp_path, capsys):
    """TrainingArguments count what torch sees; here they are told two."""
    recipe = make_recipe(tmp_path, base, emblems, *SHORT)
    one = settings_of(recipe.train, {})
    recipe.train._n_gpu = 2
    trainer = make_trainer(recipe)
    assert trainer.args.n_gpu == 1
    assert "2 GPUs are here" in capsys.readouterr().out
    assert settings_of(recipe.train, {}) == one
    trainer.train()
    assert trainer.state.global_step == 3


def test_qlora_trains_beside_a_base_of_four_bits(base, emblems, tmp_path):
    run = Run(tmp_path, base, emblems, "--model.quantization=nf4", "--answer.bins=100")
    four_bit = {name: module for name, module in run.trainer.model.named_modules() if isinstance(module, Linear4bit)}
    assert len(four_bit) == 2 * 7
    assert all("language_model" in name for name in four_bit)
    for name, module in four_bit.items():
        assert module.weight.quant_state.quant_type == "nf4"
        assert module.weight.dtype == torch.uint8, name
    for name in run.before:
        moved = not torch.equal(run.before[name], run.after[name])
        assert moved == (name in run.trained), name
    loaded = load_adapter(run.out, run.recipe)
    assert sum(isinstance(module, Linear4bit) for module in loaded.model.modules()) == len(four_bit)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("--model.max_pixels=20000", "max_pixels"),
        ("--model.min_pixels=3000", "min_pixels"),
        ("--answer.bins=63", "bins"),
        ("--answer.segments=[entities,visible,boxes]", "segments"),
    ],
)
def test_another_answer_format_is_refused(plain, base, emblems, tmp_path, override, field):
    with pytest.raises(UserError, match=rf"answer formats .* differ(?s:.*){field}: "):
        load_adapter(plain.out, make_recipe(tmp_path, base, emblems, override))


def test_other_types_are_refused_in_a_line_of_their_own_and_their_order_does_not_matter(plain, base, emblems, tmp_path):
    with pytest.raises(UserError, match=rf"^{plain.out} has the types PER, LOC, ORG, OTHER, and the recipe PER, LOC:"):
        load_adapter(plain.out, make_recipe(tmp_path, base, emblems, "--answer.types=[PER,LOC]"))
    load_adapter(plain.out, make_recipe(tmp_path, base, emblems, "--answer.types=[OTHER,ORG,LOC,PER]"))


def test_a_processor_with_other_limits_is_refused(plain, adapter):
    path = adapter / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["size"]["longest_edge"] = 12345
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="max_pixels: 28224 in the answer format, 12345 in the processor"):
        load_adapter(adapter, plain.recipe)


def test_another_base_is_refused(plain, emblems, tmp_path):
    other = save_base(tmp_path / "other", texts(emblems))
    with pytest.raises(UserError, match=f"trained on the base {plain.base}, but the recipe says {other}"):
        load_adapter(plain.out, make_recipe(tmp_path, other, emblems))


def test_the_package_s_own_base_is_the_same_wherever_it_lies():
    assert is_base(str(TINY_BASE), "tiny")
    assert is_base("/elsewhere/site-packages/rivegs_mllm/tiny/base", "tiny")
    assert not is_base("/elsewhere/base", "tiny")
    assert not is_base(str(TINY_BASE), "Qwen/Qwen2.5-VL-7B-Instruct")
    assert is_base("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")


@pytest.mark.parametrize("name", [FILE_NAME, "adapter_config.json", "adapter_model.safetensors", "instruction.txt"])
def test_a_folder_that_is_not_whole_is_refused(plain, adapter, name):
    (adapter / name).unlink()
    with pytest.raises(UserError, match=name):
        load_adapter(adapter, plain.recipe)


def test_damaged_adapter_weights_are_refused(plain, adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: damaged"):
        load_adapter(adapter, plain.recipe)


def test_adapter_weights_too_few_or_too_many_are_refused(plain, adapter):
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    first = min(weights)
    save_file({name: value for name, value in weights.items() if name != first}, path)
    with pytest.raises(UserError, match=f"1 weights are missing or unexpected, such as {first}"):
        load_adapter(adapter, plain.recipe)
    save_file({**weights, f"{first}.more": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=f"1 weights are missing or unexpected, such as {first}.more"):
        load_adapter(adapter, plain.recipe)


@pytest.mark.parametrize("base", ["./nowhere", "/no/such/base", "nobody/no-such-model"])
def test_a_base_that_does_not_exist_is_a_clear_error(emblems, tmp_path, base):
    with pytest.raises(UserError, match=f"model.base: {base}"):
        load_base(make_recipe(tmp_path, Path("x"), emblems, f"--model.base={base}"))


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "cut off"])
def test_a_base_whose_weights_do_not_fit_is_refused(base, emblems, tmp_path, damage):
    copy = shutil.copytree(base, tmp_path / "base")
    path = copy / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "unexpected":
        weights["model.layers.0.mlp.other.weight"] = torch.zeros(2)
    elif damage == "shape":
        weights[name] = torch.zeros(3, 3)
    save_file(weights, path, metadata={"format": "pt"})
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=str(copy)):
        load_base(make_recipe(tmp_path, copy, emblems))


def test_a_base_of_an_unknown_family_is_refused(emblems, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(UserError, match="is a llava; known are qwen2_vl"):
        load_base(make_recipe(tmp_path / "r", tmp_path, emblems))


def test_code_in_a_base_is_not_run_unless_the_recipe_says_so(emblems, tmp_path):
    assert ModelRecipe(base="x").trust_remote_code is False
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="trust_remote_code"):
        load_base(make_recipe(tmp_path / "r", tmp_path, emblems))
    assert not (tmp_path / "ran").exists()


def test_an_instruction_without_the_text_is_refused(base, emblems, tmp_path):
    with pytest.raises(UserError, match=r"has no \{text\}"):
        load_base(make_recipe(tmp_path, base, emblems, "--answer.instruction=Answer."))
