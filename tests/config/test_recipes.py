"""The recipes of end-to-end models are what they say, and the accelerate configs they are launched with load."""

import json
import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from recipe_files import ROOT, named, recipes

from rivegs_mllm.config.reading.yaml_loader import parse_recipe, read_yaml
from rivegs_mllm.config.reading.yaml_text import plain
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.config.starting import TINY, bases
from rivegs_mllm.rehearsal.bases import BASES
from rivegs_mllm.tiny.build import BaseRecipe
from rivegs_mllm.training import memory
from rivegs_mllm.types import UserError

BASE = ROOT / "recipes" / "tiny" / "base.yaml"
FIELD = recipes("e2e")
END_TO_END = [*FIELD, *(path for path in recipes("tiny") if path != BASE)]
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
SEVEN = ROOT / "recipes" / "e2e" / "qwen2_5_vl_7b.yaml"


def read(path: Path, *overrides: str) -> Recipe:
    return read_recipe(path, ["--train.use_cpu=true", *overrides])


@pytest.mark.parametrize("path", END_TO_END, ids=named)
def test_no_recipe_lets_the_trainer_drop_pictures(path):
    assert read(path).train.remove_unused_columns is False


def test_recipe_of_the_tiny_base():
    assert BASE.read_text(encoding="utf-8").startswith(f"# python -m rivegs_mllm.tiny.build {named(BASE)}\n")
    recipe = parse_recipe(BaseRecipe, BASE)
    assert recipe.out == Path("rivegs_mllm/tiny/base")


@pytest.mark.parametrize("path", FIELD, ids=named)
def test_field_recipe_is_what_it_says(path):
    recipe = read(path)
    assert recipe.train.output_dir == f"runs/{path.stem}"
    assert recipe.train.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert (recipe.train.metric_for_best_model, recipe.train.greater_is_better) == ("eval_gmner_f1", True)
    text, size = BASES[recipe.model.base]().get_text_config(), BASES[recipe.model.base]().vision_config
    side = size.patch_size * size.spatial_merge_size
    assert recipe.model.max_pixels == 1024 * side * side
    assert text.vocab_size > 150_000


ROW = re.compile(
    r"^\| \[(e2e/\w+\.yaml)\]\(\1\)(?: `(--[^`]+)`)? \|[^|]+\| ([\d.]+) \| ([\d.]+) \| ([\d.]+)\*? \|$", re.MULTILINE
)
MEMORY = ROW.findall((ROOT / "recipes" / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "said", "one", "eight", "nodes"), MEMORY, ids=lambda value: value.split("/")[-1])
def test_the_memory_in_the_table_is_what_is_calculated(name, said, one, eight, nodes):
    recipe = read(ROOT / "recipes" / name, *said.split())
    stage = 2 if recipe.model.quantization else 3
    for stated, gpus, zero in ((one, 1, 0), (eight, 8, 2), (nodes, 16, stage)):
        calculated = memory.estimate(BASES[recipe.model.base](), recipe, gpus, zero).total / 1e9
        assert stated == f"{calculated:.1f}", f"{gpus} GPUs: run rivegs memory again"


def test_init_knows_each_recipe_with_its_memory():
    own = [(base.recipe, base.quantization, base.memory) for base in bases() if base.name != TINY]
    table = {(f"recipes/{row[0]}", row[1].removeprefix("--model.quantization="), float(row[2])) for row in MEMORY}
    assert set(own) == {row for row in table if row[1] in ("", "nf4")}
    assert bases()[0].name == TINY


def test_the_table_has_every_recipe_that_needs_a_gpu():
    assert {row[0] for row in MEMORY} == {f"e2e/{path.name}" for path in FIELD}


@pytest.mark.parametrize(
    ("key", "name"),
    [("surprise: 1", "surprise"), ("lora:\n  rank: 4", "rank"), ("train:\n  learnig_rate: 1", "learnig_rate")],
)
def test_unknown_key_is_named(tmp_path, key, name):
    """A key below a section comes in that section's place."""
    recipe = plain(read_yaml(SEVEN))
    for section, values in yaml.safe_load(key).items():
        recipe[section] = {**recipe[section], **values} if isinstance(values, dict) else values
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=name) as error:
        read(path)
    assert str(path) in str(error.value)


def test_overrides():
    recipe = read(
        SEVEN, "--train.learning_rate=5e-5", "--lora.r=8", "--answer.segments=[entities,boxes]", "--model.base=tiny"
    )
    assert (recipe.train.learning_rate, recipe.lora.r, recipe.model.base) == (5e-5, 8, "tiny")
    assert recipe.answer.segments == ["entities", "boxes"]


def test_recipe_that_is_not_there():
    with pytest.raises(UserError, match="no such recipe"):
        read(ROOT / "recipes" / "none.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_accelerate_config_loads(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config_from_file(named(path))
    head = path.read_text(encoding="utf-8").splitlines()[0]
    assert f"accelerate launch --config_file {named(path)} " in head
    assert (config.distributed_type == DistributedType.DEEPSPEED) == ("zero" in path.stem)
    assert config.use_cpu == path.stem.startswith("cpu_")
    if config.deepspeed_config:
        stage = json.loads(Path(config.deepspeed_config["deepspeed_config_file"]).read_text())["zero_optimization"]
        assert stage["stage"] == int(path.stem.split("zero")[1][0])
        assert config.deepspeed_config["zero3_init_flag"] == (stage["stage"] == 3)
        assert ("offload_param" in stage) == path.stem.endswith("offload")


@pytest.mark.parametrize("path", sorted((ROOT / "accelerate_configs").glob("*.json")), ids=named)
def test_deepspeed_config_is_valid_and_leaves_the_rest_to_the_recipe(path):
    deepspeed = pytest.importorskip("deepspeed.runtime.config", reason="needs the extra deepspeed")
    settings = json.loads(path.read_text())
    auto = {key: value for key, value in settings.items() if value == "auto"}
    assert auto.keys() == {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    }
    assert settings["bf16"] == {"enabled": "auto"}
    filled = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    config = deepspeed.DeepSpeedConfig({**settings, **filled, "gradient_clipping": 1.0, "bf16": {"enabled": True}})
    assert config.zero_config.stage == settings["zero_optimization"]["stage"]
    assert config.zero_config.reduce_bucket_size == memory.BUCKET
    if config.zero_config.stage == 3:
        assert config.zero_config.max_live_parameters == memory.LIVE


def test_no_is_a_word_and_a_rate_a_number_as_people_write_them():
    overrides = ["--train.eval_strategy=no", "--train.load_best_model_at_end=false", "--train.learning_rate=1e-4"]
    train = read_recipe(ROOT / "recipes" / "tiny" / "e2e.yaml", overrides).train
    assert (train.eval_strategy.value, train.load_best_model_at_end, train.learning_rate) == ("no", False, 1e-4)
