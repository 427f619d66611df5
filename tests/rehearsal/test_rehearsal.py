"""A rehearsal finds nothing where nothing is wrong, and each fault that is planted."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from tiny_base import LEARNED, make_recipe, save_base, texts, without_picture, write_recipe

from rivegs_mllm.answer.format import FILE_NAME, AnswerFormat
from rivegs_mllm.cli.main import main
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.models import adapter
from rivegs_mllm.models.base_model import load_without_weights
from rivegs_mllm.rehearsal.bases import BASES, qwen2_5_vl
from rivegs_mllm.rehearsal.check import FAULT, OK, WARNING, Check
from rivegs_mllm.rehearsal.cost import Load, Machine, check_disk, check_memory, check_time, checkpoint_bytes, operations
from rivegs_mllm.rehearsal.gpus import GPUS
from rivegs_mllm.rehearsal.launch import CONFIGS, config_of, on_cpu
from rivegs_mllm.rehearsal.posts import check_encoding, check_posts, measure_posts
from rivegs_mllm.rehearsal.run import check_costs, check_settings, two_steps
from rivegs_mllm.rehearsal.small_base import save_small_base, stand_in_processor
from rivegs_mllm.rehearsal.steps import FIRST, Plan, rehearse
from rivegs_mllm.training.memory import Estimate, estimate

E2E = Path(__file__).parents[2] / "recipes" / "e2e"
SEVEN = "Qwen/Qwen2.5-VL-7B-Instruct"
CHECKPOINTING = "--train.gradient_checkpointing=true"
LOC_100 = "--answer.bins=100"  # of which the base knows 65


def large(name: str, *overrides: str) -> Recipe:
    return read_recipe(E2E / name, ["--train.use_cpu=true", *overrides])


def machine(name: str, gpus: int = 1, zero: int = 0) -> Machine:
    return Machine(name, GPUS[name], gpus, 1, zero)


def plan_for(folder: Path, base: Path, data: Path, *overrides: str) -> Plan:
    path = write_recipe(folder, base, data)
    recipe = read_recipe(path, overrides)
    ids = [sample.id for sample in read_split(data, "train")][:4]
    own = [*overrides, *two_steps(recipe, 2, folder / "rehearsed")]
    return Plan(folder / "plan.json", path, own, ids, ids[:2])


def faults(checks: list[Check]) -> dict[str, str]:
    return {check.subject: check.found for check in checks if check.level == FAULT}


@pytest.fixture(scope="module")
def untied(tmp_path_factory, emblems) -> Path:
    return save_base(tmp_path_factory.mktemp("untied"), texts(emblems), tied=False)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, base, emblems) -> tuple[Plan, list[Check], list[Check]]:
    """A plan, and what it finds from the start and resumed."""
    plan = plan_for(tmp_path_factory.mktemp("rehearsed"), base, emblems, LOC_100, CHECKPOINTING)
    plan.save()
    plan = Plan.load(plan.path)
    return plan, rehearse(plan), rehearse(plan)


def test_nothing_is_found_where_nothing_is_wrong(rehearsed):
    _, first, again = rehearsed
    assert {check.level for check in (*first, *again)} == {OK}, [check.line() for check in (*first, *again)]
    subjects = ["steps", "gradient", "frozen", "precision", "added tokens", "evaluation"]
    assert [check.subject for check in first] == subjects
    assert [check.subject for check in again] == ["checkpoint", "generation"]
    assert "36, whose rows are trained (embedding and output layer are tied)" in first[4].found


def test_a_checkpoint_has_the_bytes_that_are_calculated(rehearsed):
    plan, _, again = rehearsed
    out = plan.path.parent / "rehearsed"
    adapter_file = (out / FIRST).stat().st_size
    processor = sum(path.stat().st_size for path in (out / "checkpoint-1").glob("*token*"))
    calculated = checkpoint_bytes(adapter_file // 4, zero=0) - 16e6 + processor
    assert again[0].figures["bytes"] == pytest.approx(calculated, rel=0.1)


def test_a_resumed_run_that_ends_elsewhere_is_found(rehearsed, tmp_path):
    from safetensors.torch import load_file, save_file

    from rivegs_mllm.rehearsal.steps import compare

    out = rehearsed[0].path.parent / "rehearsed"
    weights = load_file(out / FIRST)
    for name in (FIRST, "adapter_model.safetensors"):
        save_file(weights, tmp_path / name)
    (tmp_path / "checkpoint-1").mkdir()
    assert compare(tmp_path).level == OK
    save_file({name: value * 1.01 for name, value in weights.items()}, tmp_path / "adapter_model.safetensors")
    assert "ends elsewhere" in compare(tmp_path).found


def test_gradient_through_a_frozen_tower_is_found(base, emblems, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "_keep_gradients_out_of_a_frozen_tower", lambda _: None)
    found = faults(rehearse(plan_for(tmp_path, base, emblems, CHECKPOINTING)))
    assert found == {"frozen": "gradient passes through the vision tower, in which nothing is trained"}


def test_weights_of_the_base_that_are_trained_are_found(base, emblems, tmp_path):
    found = faults(rehearse(plan_for(tmp_path, base, emblems, "--lora.bias=all")))
    assert found["frozen"].startswith("18 weights of the base itself are trained")


def test_a_trained_weight_without_gradient_is_found(base, emblems, tmp_path):
    """The tower's, where the posts have no pictures."""
    bare = tmp_path / "data"
    posts = [without_picture(sample) for sample in read_split(emblems, "train")]
    write_records(bare / "train.jsonl", posts)
    tower = r"--lora.target_modules=.*(q_proj|visual\.blocks.*qkv)"
    found = faults(rehearse(plan_for(tmp_path, base, bare, tower)))
    assert re.fullmatch(r"4 of 8 trained weights got none, such as .*visual.*", found["gradient"])


def test_a_stream_of_another_precision_is_found(base, emblems, tmp_path):
    """A base of float16 whose steps are made in bfloat16: torch adds the two as float32, and says nothing."""
    found = faults(rehearse(plan_for(tmp_path, base, emblems, "--model.dtype=float16", "--train.bf16=true")))
    assert found == {"precision": "float32 passes between the layers, and model.dtype is float16"}


def test_tied_rows_of_added_tokens_that_part_are_found(base, emblems, tmp_path):
    """An adapter on the output layer alone, which shares its weights with the embedding."""
    head = "--lora.target_modules=.*(q_proj|lm_head)"
    found = faults(rehearse(plan_for(tmp_path, base, emblems, LOC_100, head)))
    assert found["added tokens"].startswith("embedding and output layer are tied, and have other rows for 36 added")


def test_rows_of_added_tokens_that_are_read_and_not_written_are_found(untied, emblems, tmp_path, monkeypatch):
    def halved(system, recipe, fused, own=adapter._adapter_config):
        config = own(system, recipe, fused)
        del config.trainable_token_indices["lm_head"]
        return config

    monkeypatch.setattr(adapter, "_adapter_config", halved)
    found = faults(rehearse(plan_for(tmp_path, untied, emblems, LOC_100)))
    assert found == {"added tokens": "the rows of 36 added tokens are not trained in the output layer"}


def test_rows_of_an_untied_base_are_trained_in_both(untied, emblems, tmp_path):
    checks = rehearse(plan_for(tmp_path, untied, emblems, LOC_100))
    assert faults(checks) == {}
    assert "36, whose rows are trained (in embedding and output layer)" in [check.found for check in checks]


def test_an_error_of_a_library_is_a_fault_that_names_the_line(base, emblems, tmp_path):
    def broken(*_):
        raise AttributeError("no such thing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rivegs_mllm.train.answer_loss", broken)
        checks = rehearse(plan_for(tmp_path, base, emblems))
    assert faults(checks) == {"steps": "training ended: AttributeError no such thing"}
    assert __file__ in checks[-1].advice


def test_modules_that_match_nothing_are_found(base, emblems, tmp_path):
    config = qwen2_5_vl(256, 2, 2, 1, 512, 512, tied=True)
    config.vision_config.depth = 2
    recipe = make_recipe(tmp_path, base, emblems, "--lora.target_modules=.*nothing.*", "--model.max_pixels=28224")
    [check] = check_costs(config, recipe, machine("4090"), None)
    assert (check.level, check.subject) == (FAULT, "adapter")
    assert "nothing" in check.found


@pytest.fixture(scope="module")
def measured(tmp_path_factory, base, emblems):
    recipe = make_recipe(tmp_path_factory.mktemp("measured"), base, emblems, LEARNED, "--predict.max_new_tokens=256")
    processor, answer_format = load_without_weights(recipe)
    return recipe, measure_posts(recipe, processor, answer_format), processor, answer_format


def test_posts_that_fit_are_counted_as_they_are_encoded(measured):
    recipe, posts, processor, answer_format = measured
    checks = [*check_posts(posts, recipe), *check_encoding(posts, recipe, processor, answer_format)]
    assert [check.subject for check in checks if check.level != OK] == ["pictures"], "larger than the tiny base's limit"
    assert [check.subject for check in checks] == ["tokens", "answers", "pictures", "boxes", "processor"]


def test_a_processor_that_resizes_by_another_rule_is_found(measured):
    recipe, posts, processor, answer_format = measured
    own = copy.deepcopy(processor)
    own.image_processor.size["longest_edge"] *= 4
    found = faults(list(check_encoding(posts, recipe, own, answer_format)))
    assert "were counted by its picture's size" in found["processor"]


def test_answers_longer_than_the_limits_are_found(measured):
    recipe, posts, _, _ = measured
    longest = max(post.tokens for post in posts.posts)
    cut = dataclasses.replace(recipe, max_length=longest - 1)
    assert faults(list(check_posts(posts, cut)))["tokens"].startswith("1 posts have more than max_length")
    limited = dataclasses.replace(recipe, predict=dataclasses.replace(recipe.predict, max_new_tokens=4))
    [warning] = [check for check in check_posts(posts, limited) if check.subject == "answers"]
    assert warning.level == WARNING
    assert warning.figures["answers_cut"] == len(posts.posts)


def test_boxes_that_a_coarse_grid_loses_are_found(base, emblems, tmp_path):
    recipe = make_recipe(tmp_path, base, emblems, "--answer.bins=2")
    processor, answer_format = load_without_weights(recipe)
    found = faults(list(check_posts(measure_posts(recipe, processor, answer_format), recipe)))
    assert "are not read back" in found["boxes"]


def test_a_picture_limit_below_a_patch_is_found(base, emblems, tmp_path):
    recipe = make_recipe(tmp_path, base, emblems, "--model.max_pixels=700")
    [check] = check_settings(tmp_path, recipe, recipe, qwen2_5_vl(256, 2, 2, 1, 512, 512, tied=True))
    assert (check.level, check.subject) == (FAULT, "pictures")
    assert "28 x 28 = 784" in check.advice


@pytest.mark.parametrize("where", ["run", "init"])
def test_an_answer_format_of_another_base_is_found(where, base, emblems, tmp_path):
    other = AnswerFormat("qwen3_vl", "native", 65536, 1048576, 32)
    (tmp_path / where).mkdir()
    other.save(tmp_path / where)
    (tmp_path / where / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "Qwen/Qwen3-VL-8B-Instruct", "r": 8, "peft_type": "LORA"})
    )
    overrides = [f"--init={tmp_path / 'init'}"] if where == "init" else []
    recipe = make_recipe(tmp_path, base, emblems, *overrides)
    checks = list(check_settings(tmp_path, recipe, recipe, qwen2_5_vl(256, 2, 2, 1, 512, 512, tied=True)))
    assert faults(checks).keys() == {"format"}
    assert "Qwen3-VL-8B" in faults(checks)["format"] or "qwen3_vl" in faults(checks)["format"]
    (tmp_path / where / FILE_NAME).unlink()


def test_a_mix_of_half_precisions_is_found(base, emblems, tmp_path):
    recipe = make_recipe(tmp_path, base, emblems, "--model.dtype=float16", "--train.bf16=true")
    checks = list(check_settings(tmp_path, recipe, recipe, qwen2_5_vl(256, 2, 2, 1, 512, 512, tied=True)))
    assert faults(checks) == {"precision": "model.dtype is float16, and steps are made in bfloat16"}


def test_a_batch_that_does_not_fit_is_found_with_one_that_does():
    config, one = BASES[SEVEN](), "--train.per_device_train_batch_size=1"
    check, _ = check_memory(config, large("qwen2_5_vl_7b.yaml"), machine("4090"))
    assert check.level == FAULT
    assert check.advice.startswith(f"{one} --train.gradient_accumulation_steps=4 fits")
    check, own = check_memory(config, large("qwen2_5_vl_7b.yaml", one), machine("4090"))
    assert check.level == OK
    assert own.total < GPUS["4090"].memory
    check, _ = check_memory(config, large("qwen2_5_vl_7b.yaml", one, "--max_length=6144"), machine("4090"))
    assert check.level == FAULT
    assert check.advice.startswith(f"--model.quantization=nf4 with {one} fits")


def test_checkpoints_that_no_disk_holds_are_found(tmp_path):
    recipe = large("qwen2_5_vl_7b.yaml", f"--train.output_dir={tmp_path / 'none' / 'run'}")
    own = estimate(BASES[SEVEN](), recipe)
    check = check_disk(recipe, machine("a100-80"), own)
    assert check.figures["disk_gb"] == pytest.approx(3 * (12 * own.trainable + 16e6) / 1e9)
    larger = dataclasses.replace(own, trainable=10**13)
    assert check_disk(recipe, machine("a100-80"), larger).level == FAULT


def test_operations_by_hand():
    config, recipe = BASES[SEVEN](), large("qwen2_5_vl_7b.yaml")
    forward, training = operations(config, recipe, Load(1000, 0, 0, 1, 1, True))
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    language = 2 * linear * 1000 + 2 * 1000**2 * 3584 * 28
    assert forward == language
    assert training == 3 * language, "forward, again for checkpointing, and backward through frozen weights"
    written, _ = operations(config, recipe, Load(1000, 0, 100, 1, 1, True))
    assert written - forward == 2 * 152064 * 3584 * 100


def test_time_says_what_it_assumes():
    config, recipe = BASES[SEVEN](), large("qwen2_5_vl_7b.yaml")
    own, load = Estimate(8_000_000_000, 160_000_000, {}), Load(800, 400, 60, 7000, 500, True)
    time, evaluation = check_time(config, recipe, machine("a100-80", 8, 2), own, load)
    assert time.figures["steps"] == 657
    _, training = operations(config, recipe, load)
    assert time.figures["hours"] == pytest.approx(657 * 32 * training / (8 * 312e12 * 0.35) / 3600)
    assert "35% of 312 TFLOP/s" in time.found
    assert evaluation.figures["evaluations"] == 6
    recipe.train.eval_steps = 2
    assert list(check_time(config, recipe, machine("a100-80", 8, 2), own, load))[1].level == WARNING


@pytest.mark.parametrize("name", [SEVEN, "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"])
def test_a_small_base_is_like_the_real_one(name, tmp_path):
    from transformers import AutoConfig

    config = BASES[name]()
    processor = stand_in_processor(config, ["Ada met Bob in York, yes or no"])
    save_small_base(tmp_path, config, processor, "float32")
    small = AutoConfig.from_pretrained(tmp_path)
    flat = "text_config" not in json.loads((tmp_path / "config.json").read_text())
    assert flat == (small.model_type == "qwen2_5_vl"), "as the hub's files are"
    assert small.tie_word_embeddings == config.tie_word_embeddings
    own, real = small.get_text_config(), config.get_text_config()
    assert own.rope_parameters["mrope_section"] == real.rope_parameters["mrope_section"]
    assert small.vision_config.patch_size == config.vision_config.patch_size
    assert processor.image_processor.patch_size == config.vision_config.patch_size
    assert own.num_hidden_layers == small.vision_config.depth == 2
    assert real.num_hidden_layers > 2, "the real config stays as it is"


@pytest.mark.parametrize("nodes", [1, 2])
def test_processes_on_the_cpu_have_the_settings_of_the_gpus(nodes):
    config = config_of(Machine("a100-80", GPUS["a100-80"], 8, nodes, 2))
    own = on_cpu(yaml.safe_load((CONFIGS / config).read_text()), 2)
    known = yaml.safe_load((CONFIGS / "cpu_zero2.yaml").read_text())
    settings = own["deepspeed_config"].pop("deepspeed_config_file")
    assert CONFIGS.parent / known["deepspeed_config"].pop("deepspeed_config_file") == Path(settings)
    assert own == known


def test_a_line_and_its_record():
    check = Check(FAULT, "tokens", "3 posts are too long", "--max_length=4096", {"tokens_max": 4001})
    assert check.line().split() == ["fault", "tokens", "3", "posts", "are", "too", "long;", "--max_length=4096"]
    assert Check.from_json(json.loads(json.dumps(check.to_json()))) == check


def test_gpu_names_of_the_command_are_those_that_are_known():
    from rivegs_mllm.cli.commands.rehearse import GPU_NAMES

    assert set(GPU_NAMES) == set(GPUS)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 8])
def test_command(gpus, emblems, tmp_path, capsys):
    """Through accelerate, as real runs are: one process, and two under DeepSpeed."""
    words = ["rehearse", str(E2E / "qwen2_5_vl_3b.yaml"), "--gpus", str(gpus), "--data", str(emblems)]
    out = tmp_path / "found.json"
    assert main([*words, "--json", str(out), f"--train.output_dir={tmp_path / 'run'}"]) == 0
    shown = capsys.readouterr().out
    assert f"2 steps in {min(gpus, 2)} process" in shown
    assert "0 faults" in shown
    subjects = {check["subject"] for check in json.loads(out.read_text())}
    assert {"base", "processor", "tokens", "memory", "time", "disk", "steps", "checkpoint", "generation"} <= subjects
    assert main([*words, "--max_length=100", f"--train.output_dir={tmp_path / 'run'}"]) == 1
    assert "fault   tokens" in capsys.readouterr().out
    assert torch.is_grad_enabled()
