"""Recipes that are wrong in every way: each ends in one line that names the file, the key and what is right."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data_builders.emblems.build import build_emblems
from rivegs_mllm.answer.prompt import check_instruction
from rivegs_mllm.cascade.config import CascadeRecipe, read_cascade
from rivegs_mllm.cascade.training import StageTraining
from rivegs_mllm.config.bounds import Bounds, is_union
from rivegs_mllm.config.reading.yaml_loader import parse_recipe, read_yaml
from rivegs_mllm.config.reading.yaml_text import plain
from rivegs_mllm.config.schema import PredictRecipe, Recipe, read_recipe
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.distill.config import DistillRecipe, read_distill
from rivegs_mllm.distill.pseudo_labels import read_pseudo_label_recipe
from rivegs_mllm.llm.few_shot import draft_examples
from rivegs_mllm.training.preview import write_preview
from rivegs_mllm.types import UserError

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny" / "e2e.yaml"
STAGE = ROOT / "recipes" / "stages" / "tagger_tiny.yaml"
CASCADE = ROOT / "recipes" / "cascade" / "tiny.yaml"
DISTILL = ROOT / "recipes" / "distill" / "emblems_smollm2.yaml"
ROWS = ROOT / "recipes" / "distill" / "cascade_rows.yaml"

LONGEST = 700


def refused(path: Path, read=read_recipe, overrides=(), says: str = "") -> str:
    """The one line with which a recipe is refused, in short time."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(path, overrides)
    message = str(caught.value)
    assert time.monotonic() - start < 5
    assert "\n" not in message
    assert len(message) < LONGEST
    assert str(path) in message
    assert re.search(says, message), message
    return message


def edited(folder: Path, key: str, value: object, source: Path = TINY) -> Path:
    """A recipe with one key of another value."""
    content = plain(read_yaml(source))
    *above, last = key.split(".")
    section = content
    for name in above:
        section = section.setdefault(name, {})
    section[last] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


NAN, INF = float("nan"), float("inf")
WRONG_VALUES = [
    ("predict.batch_size", -1),
    ("predict.batch_size", 0),
    ("predict.batch_size", 2.5),
    ("predict.batch_size", True),
    ("predict.batch_size", "four"),
    ("predict.batch_size", [4]),
    ("predict.batch_size", None),
    ("predict.batch_size", 10**18),
    ("predict.max_new_tokens", -5),
    ("predict.max_new_tokens", 0),
    ("answer.weights", {"visible": NAN}),
    ("answer.weights", {"visible": -1}),
    ("answer.weights", {"visible": INF}),
    ("answer.weights", {"visibel": 1}),
    ("answer.weights", [1, 2]),
    ("answer.bins", 0),
    ("answer.bins", 10**9),
    ("answer.encoding", "polar"),
    ("answer.instruction", None),
    ("answer.instruction", ["a"]),
    ("answer.segments", "entities"),
    ("answer.types", [1, [2]]),
    ("data.max_eval_samples", -6),
    ("data.max_eval_samples", 0),
    ("data.folder", None),
    ("data.folder", ""),
    ("data.folder", {"a": 1}),
    ("model.base", None),
    ("model.dtype", "banana"),
    ("model.dtype", "2020-01-01"),
    ("model.min_pixels", 999999999999),
    ("model.max_pixels", -1),
    ("model.trust_remote_code", "perhaps"),
    ("model.quantization", "int3"),
    ("lora.r", 0),
    ("lora.r", -1),
    ("lora.lora_dropout", 1.5),
    ("lora.lora_alpha", NAN),
    ("lora.target_modules", "("),
    ("lora.bias", "some"),
    ("max_length", None),
    ("max_length", 0),
    ("train.per_device_train_batch_size", 0),
    ("train.learning_rate", NAN),
    ("train.learning_rate", -1e-3),
    ("train.learning_rate", 0),
    ("train.learning_rate", "fast"),
    ("train.learning_rate", 1e30),
    ("train.num_train_epochs", -1),
    ("train.num_train_epochs", INF),
    ("train.max_steps", 0),
    ("train.max_steps", -5),
    ("train.weight_decay", NAN),
    ("train.warmup_steps", -1),
    ("train.adam_beta2", 1.0),
    ("train.max_grad_norm", -1.0),
    ("train.gradient_accumulation_steps", 0),
    ("train.seed", -1),
    ("train.dataloader_num_workers", -1),
    ("train.save_steps", 0),
    ("train.save_total_limit", 0),
    ("train.eval_steps", -3),
    ("train.logging_steps", NAN),
    ("train.output_dir", "a\0b"),
    ("train.output_dir", None),
    ("train.optim", "banana"),
    ("train.lr_scheduler_type", "banana"),
    ("train.eval_strategy", "sometimes"),
    ("train.metric_for_best_model", "eval_banana"),
    ("train.learnig_rate", 1),
    ("augment.box_jitter", NAN),
    ("augment.name_augmentation", 2),
    ("augment.knowledge", "all"),
    ("distilled.knowledge", [1]),
    ("surprise", 1),
    ("data", [1]),
    ("data", None),
    ("train", "fast"),
    ("lora", 3),
]


def test_every_wrong_value_is_named_with_its_key(trials, tmp_path):
    def attempt(case):
        key, value = case
        message = refused(edited(tmp_path, key, value))
        assert key.rpartition(".")[2] in message

    trials.each("recipe: a wrong value", WRONG_VALUES, attempt)


WRONG_FILES = {
    "empty": (b"", "no keys"),
    "only a comment": (b"# nothing\n", "no keys"),
    "a list": (b"- a\n- b\n", "no keys"),
    "a word": (b"hello\n", "no keys"),
    "a tab": (b"data:\n\tfolder: x\n", "line 2: a tab"),
    "a key twice": (b"data: {folder: a}\nmax_length: 5\ndata: {folder: b}\n", "line 3: the key 'data' comes twice"),
    "a key twice below": (b"data:\n  folder: a\n  folder: b\n", "'folder' comes twice"),
    "two documents": (b"data: {folder: a}\n---\ndata: {folder: b}\n", "not YAML"),
    "not closed": (b"data: {folder: a\n", "not YAML"),
    "latin-1": ("data: {folder: café}\n".encode("latin-1"), "not UTF-8"),
    "UTF-16": ("data: {folder: a}\n".encode("utf-16"), "not UTF-8"),
    "bytes": (bytes(range(256)), "not (YAML|a recipe)"),
    "NUL": (b"data: {folder: a}\0\n", "not YAML"),
    "huge": (b"a: " + b"x" * 2_000_000, "longer than"),
    "a list as a key": (b"? [a, b]\n: 1\n", "a key is a word"),
    "deep lists": (b"a: " + b"[" * 10_000, "nested deeper"),
    "deep maps": (b"{a: " * 10_000, "nested deeper"),
    "closed deep lists": (b"a: " + b"[" * 200 + b"]" * 200, "nested deeper"),
    "aliases that multiply": (
        b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
        "aliases counted each time",
    ),
    "an alias of itself": (b"a: &a [*a]\n", "nested deeper|recursive|not YAML"),
    "an unknown alias": (b"a: *b\n", "undefined alias"),
    "a Python object": (b"a: !!python/object/apply:os.system [echo]\n", "tag .* has no place"),
    "a tag": (b"a: !mine 5\n", "tag .* has no place"),
    "an integer of 5,000 digits": (b"max_length: " + b"9" * 5000 + b"\n", "5,000 digits"),
    "no date": (b"data: {folder: a}\nmodel: {base: tiny, dtype: 2001-99-99}\n", "dtype"),
    "a long key": (b"k" * 900 + b": 1\n", "no such key"),
    "a number as a key": (b"1: 2\n", "1: no such key"),
    "null as a key": (b"null: 2\n", "null: no such key"),
}


def test_every_wrong_file_is_told_in_one_line(trials, tmp_path):
    path = tmp_path / "recipe.yaml"

    def attempt(name):
        content, says = WRONG_FILES[name]
        path.write_bytes(content)
        refused(path, says=says)

    trials.each("recipe: no YAML, or hostile YAML", WRONG_FILES, attempt)


def test_what_is_no_file_is_told(tmp_path):
    refused(tmp_path / "none.yaml", says="no such recipe")
    refused(tmp_path, says="no such recipe .it is a folder")
    refused(Path("/dev/null"), says="no such recipe .it is no plain file")
    (tmp_path / "a.jsonl").write_text("{}\n")
    refused(tmp_path / "a.jsonl", says="rivegs evaluate")


def test_nearest_name_is_offered(tmp_path):
    refused(edited(tmp_path, "train.learnig_rate", 1), says="did you mean train.learning_rate")
    refused(edited(tmp_path, "lora.rank", 1), says="lora.rank: no such key; did you mean lora.r")
    refused(edited(tmp_path, "entailment.type", "alway", CASCADE), read_cascade, says="did you mean 'always'")
    refused(edited(tmp_path, "answer.instrction", "x"), says="did you mean answer.instruction")


OVERRIDES = [
    ("--data.folder=null", "data.folder: null"),
    ("--model.base=null", "model.base: null"),
    ("--answer.instruction=null", "answer.instruction: null"),
    ("--max_length=null", "max_length: None is not a whole number"),
    ("--max_length=" + "9" * 5000, "5,000 digits"),
    ("--max_length=5 # five", "max_length"),
    ("--answer.segments=[a, b", "not YAML"),
    ("--answer.segments=[entities] # only", "begins a comment"),
    ("--answer.segments=" + "[" * 5000, "nested deeper"),
    ("--train.output_dir=", "output_dir"),
    ("--train.output_dir=a\0b", "NUL"),
    ("--answer.instruction={text}\ud800", "lone surrogate"),
    ("--data..folder=x", "no such key"),
    ("--data.folder.deeper=x", "data.folder"),
    ("--=x", "written --key=value"),
    ("--max_length", "written --key=value"),
    ("x" * 10_000, "written --key=value"),
    ("--predict.batch_size=-1", "predict.batch_size: -1"),
    ("--predict.batch_size=.nan", "predict.batch_size"),
    ("--lora.target_modules=(", "regular expression"),
]


def test_every_wrong_override_is_told(trials):
    def attempt(case):
        override, says = case
        with pytest.raises(UserError, match=says) as caught:
            read_recipe(TINY, [override])
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < LONGEST

    trials.each("recipe: a wrong override", OVERRIDES, attempt)


@pytest.mark.parametrize(
    "text",
    [
        "tag #1: {text}",
        "# {text}",
        "{text}",
        "[x] {text}",
        " {text} ",
        "a: b: {text}",
        "'tis {text}",
        "{text}\nand more",
        "yes, &no *maybe !oh %d @home `{text}`",
    ],
)
def test_a_text_is_the_value_as_it_was_given(text):
    assert read_recipe(TINY, [f"--answer.instruction={text}"]).answer.instruction == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "no field",
        "{}",
        "{text",
        "text}",
        "{0}",
        "{text.__class__}",
        "{text[0]}",
        "{text!r}",
        "{text:>999999999}",
    ],
)
def test_an_instruction_that_cannot_be_filled_is_refused(text):
    with pytest.raises(UserError, match=r"answer\.instruction") as caught:
        check_instruction(text)
    assert "\n" not in str(caught.value)


def test_quotes_around_all_of_a_text_are_yaml_s():
    assert read_recipe(TINY, ['--answer.instruction="{text}\\n#"']).answer.instruction == "{text}\n#"


@pytest.mark.parametrize("name", ["run #2", "007", "0123", "1e5", "2001-01-01", "true", "1_000", "0x10", "a: b", ".5"])
def test_a_folder_s_name_is_text_in_an_override_and_in_a_file(tmp_path, name):
    assert read_recipe(TINY, [f"--train.output_dir={name}"]).train.output_dir == name
    path = tmp_path / "recipe.yaml"
    quoted = f'"{name}"' if "#" in name or ": " in name else name
    text = TINY.read_text(encoding="utf-8").replace("output_dir: runs/demo/model", f"output_dir: {quoted}")
    path.write_text(text, encoding="utf-8")
    assert read_recipe(path).train.output_dir == name


def test_lists_numbers_and_quoted_words_are_read_as_before(tmp_path):
    recipe = read_recipe(
        TINY,
        [
            "--answer.segments=[entities, visible]",
            "--answer.weights={visible: 2}",
            "--answer.weights.entities=1.5",
            "--lora.target_modules=[q_proj, v_proj]",
            "--data.max_eval_samples=null",
            "--train.report_to=[tensorboard]",
        ],
    )
    assert recipe.answer.segments == ["entities", "visible"]
    assert recipe.answer.weights == {"visible": 2.0, "entities": 1.5}
    assert recipe.lora.target_modules == {"q_proj", "v_proj"}
    assert recipe.data.max_eval_samples is None
    merged = tmp_path / "merged.yaml"
    merged.write_text(
        TINY.read_text(encoding="utf-8").replace("predict:\n", "predict:\n  <<: {batch_size: 3, max_new_tokens: 9}\n")
    )
    assert read_recipe(merged).predict == PredictRecipe(batch_size=3, max_new_tokens=256)


FORMS = {
    "a stage to predict": (STAGE, read_recipe, "a stage of the cascade, which is for rivegs train"),
    "a cascade to train": (CASCADE, read_recipe, "a cascade, which is for rivegs predict"),
    "a cascade to distill": (CASCADE, read_distill, "a cascade, which is for rivegs predict"),
    "a distill recipe to train": (DISTILL, read_recipe, "which is for rivegs distill"),
    "a distill recipe to predict": (DISTILL, read_cascade, "which is for rivegs distill"),
    "rows to train": (ROWS, read_recipe, "which is for rivegs distill"),
    "an end-to-end model to distill": (TINY, read_distill, "an end-to-end model, which is for rivegs train"),
    "the tiny base to train": (ROOT / "recipes" / "tiny" / "base.yaml", read_recipe, "rivegs_mllm.tiny.build"),
}


def test_a_recipe_of_another_kind_says_which_command_it_is_for(trials):
    def attempt(name):
        path, read, says = FORMS[name]
        refused(path, read, says=says)

    trials.each("recipe: of another kind than the command's", FORMS, attempt)


def test_settings_made_in_python_are_held_to_the_same():
    for wrong in (-1, 0, NAN):
        with pytest.raises(UserError, match="batch_size"):
            PredictRecipe(batch_size=wrong)
    recipe = read_recipe(TINY)
    with pytest.raises(UserError, match=r"answer.weights.visible: nan"):
        dataclasses.replace(recipe, answer=dataclasses.replace(recipe.answer, weights={"visible": NAN}))


@pytest.mark.parametrize(
    "command",
    [
        "train none.yaml",
        "preview none.yaml",
        "predict none.yaml --data . --out x.jsonl",
        "compare none.yaml none.yaml --data . --out x",
    ],
)
def test_a_recipe_that_is_not_there_is_told_in_no_time(command):
    code = "import sys; from rivegs_mllm.cli.main import main; code = main(sys.argv[1:]); "
    code += "sys.exit(9 if 'torch' in sys.modules or 'transformers' in sys.modules else code)"
    done = subprocess.run([sys.executable, "-c", code, *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "none.yaml: no such recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_counts_that_are_none_are_refused(tmp_path, emblems):
    for wrong in (-1, 0, -(10**9)):
        with pytest.raises(UserError, match=r"--train .* from 1"):
            build_emblems(tmp_path / "out", 0, train=wrong)
        with pytest.raises(UserError, match="--count"):
            write_preview(read_recipe(TINY), tmp_path / "page.html", wrong)
        with pytest.raises(UserError, match="--count"):
            draft_examples(read_split(emblems, "dev"), emblems, wrong, 0)
    with pytest.raises(UserError, match="--dev"):
        build_emblems(tmp_path / "out", 0, dev=-1)
    assert list(tmp_path.iterdir()) == []


def numbers(kind: type, content: dict, key: str = "") -> Iterator[tuple[str, object]]:
    """The keys of all numbers that a recipe's dataclass has, with their rule, None where they have none."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, rule = hints[field.name], None
        if is_union(hint):
            (hint, *others) = [one for one in typing.get_args(hint) if one is not type(None)]
            if others:
                continue
        if typing.get_origin(hint) is typing.Annotated:
            hint, rule = typing.get_args(hint)[:2]
        own = f"{key}.{field.name}".lstrip(".")
        if hint in (int, float):
            yield own, rule
        elif dataclasses.is_dataclass(hint) and hint.__module__.startswith("rivegs"):
            yield from numbers(hint, content.get(field.name) or {}, own)
        elif isinstance(content.get(field.name), dict) and "type" in content[field.name]:
            choice = hint.get_choice_class(content[field.name]["type"])
            yield from numbers(choice, content[field.name], own)


NUMERIC = [
    (path, kind, key, rule)
    for path, kind in ((TINY, Recipe), (STAGE, StageTraining), (CASCADE, CascadeRecipe), (DISTILL, DistillRecipe))
    for key, rule in numbers(kind, plain(read_yaml(path)))
]


def test_every_number_of_ours_has_bounds_and_is_held_to_them(trials):
    def attempt(case):
        path, kind, key, rule = case
        assert isinstance(rule, Bounds), f"{key} has no bounds"
        wrong = [".nan", ".inf", "-.inf", "true", "word", "[1]", "{a: 1}", "1" * 30]
        for bound, step in ((rule.low, -1), (rule.high, 1), (rule.above, 0), (rule.below, 0)):
            if bound is not None:
                wrong.append(str(bound + step))
        for value in wrong:
            with pytest.raises(UserError, match=re.escape(key.rpartition(".")[2])) as caught:
                parse_recipe(kind, path, [f"--{key}={value}"])
            assert "\n" not in str(caught.value)

    assert len(NUMERIC) > 25
    trials.each("recipe: a number out of its bounds", NUMERIC, attempt)


WRONG = [None, True, -1, 0, 1.5, NAN, INF, 10**20, "", "word", "007", "a\0b", [], [1], {}, {"a": 1}, [[]], "x" * 9999]


def leaves(content: dict, key: str = "") -> Iterator[str]:
    for name, value in content.items():
        own = f"{key}.{name}".lstrip(".")
        yield own
        if isinstance(value, dict):
            yield from leaves(value, own)


READERS = {
    TINY: read_recipe,
    STAGE: lambda path, overrides: parse_recipe(StageTraining, path, overrides),
    CASCADE: read_cascade,
    DISTILL: read_distill,
    ROWS: read_pseudo_label_recipe,
}


@pytest.mark.parametrize("share", [40, pytest.param(None, marks=pytest.mark.faults)])
def test_every_key_with_every_wrong_value_parses_or_is_told(trials, tmp_path, share):
    """Whatever a key is given: a recipe is read, all of its numbers finite, or it is refused in one line."""
    cases = [(path, key, value) for path in READERS for key in leaves(plain(read_yaml(path))) for value in WRONG]
    cases = trials.rng.sample(cases, share) if share else cases

    def attempt(case):
        path, key, value = case
        wrong = edited(tmp_path, key, value, path)
        recipe, message = None, ""
        try:
            recipe = READERS[path](wrong, ())
        except UserError as error:
            message = str(error)
        assert "\n" not in message
        assert len(message) < LONGEST
        assert message == "" or str(wrong) in message
        assert all(map(math.isfinite, floats(recipe)))

    trials.each("recipe: every key, every wrong value", cases, attempt)


def floats(value: object) -> Iterator[float]:
    if type(value) is float:
        yield value
    elif dataclasses.is_dataclass(value) and type(value).__module__.startswith("rivegs"):
        for field in dataclasses.fields(value):
            yield from floats(getattr(value, field.name))
    elif isinstance(value, dict):
        for own in value.values():
            yield from floats(own)
