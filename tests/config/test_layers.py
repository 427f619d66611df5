"""A recipe over its bases: what is handed down, what is replaced, what is taken away, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivegs_mllm.cascade.config import read_cascade
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.reading.yaml_loader import parse_recipe, read_yaml
from rivegs_mllm.config.reading.yaml_text import Written, plain
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.types import UserError


@pytest.fixture
def write(tmp_path):
    """Writes recipes into one folder, and returns the path of the last."""

    def written(**texts: str) -> Path:
        for name, text in texts.items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(text, encoding="utf-8")
        return path

    return written


def content(path: Path, *overrides: str) -> dict:
    return plain(read_yaml(path, overrides))


def refused(path: Path, read=read_yaml) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


MODEL = """
data: {folder: there}
model: {base: tiny, dtype: float32}
answer: {segments: [entities]}
lora: {r: 8, lora_alpha: 16}
train: {use_cpu: true, max_steps: 3, report_to: none}
"""


def test_sections_are_laid_over_key_by_key_and_lists_are_replaced(write):
    child = write(
        _below="seed: 1\nanswer: {segments: [entities, boxes], bins: 64}\nlora: {r: 4, deep: {a: 1, b: 2}}\n",
        child="base: _below.yaml\nanswer: {segments: [entities]}\nlora: {deep: {b: 3}}\nmore: x\n",
    )
    assert content(child) == {
        "seed": 1,
        "answer": {"segments": ["entities"], "bins": 64},
        "lora": {"r": 4, "deep": {"a": 1, "b": 3}},
        "more": "x",
    }


def test_null_takes_away_what_the_base_says_and_stays_where_it_says_nothing(write):
    child = write(
        _below="expander: {type: none}\nanswer: {bins: 64, weights: {a: 1}}\nseed: 1\n",
        child="base: _below.yaml\nexpander: null\nanswer: {bins:, weights: {a: ~}, encoding: null}\n",
    )
    assert content(child) == {"seed": 1, "answer": {"weights": {}, "encoding": None}}


def test_a_quoted_null_is_a_text(write):
    assert content(write(_below="a: 1\n", child='base: _below.yaml\na: "null"\n')) == {"a": "null"}


def test_another_type_lets_the_base_s_settings_go_and_the_same_keeps_them(write):
    below = "tagger: {type: crf, checkpoint: there, batch_size: 4}\n"
    assert content(write(_below=below, child="base: _below.yaml\ntagger: {type: gold}\n")) == {
        "tagger": {"type": "gold"}
    }
    kept = write(_below=below, child="base: _below.yaml\ntagger: {type: crf, batch_size: 2}\n")
    assert content(kept)["tagger"] == {"type": "crf", "checkpoint": "there", "batch_size": 2}
    untold = write(_below=below, child="base: _below.yaml\ntagger: {batch_size: 2}\n")
    assert content(untold)["tagger"] == {"type": "crf", "checkpoint": "there", "batch_size": 2}
    first = write(_below="stage: {max_length: 8}\n", child="base: _below.yaml\nstage: {type: crf}\n")
    assert content(first)["stage"] == {"max_length": 8, "type": "crf"}


def test_a_section_takes_the_place_of_a_value_and_a_value_that_of_a_section(write):
    child = write(_below="a: 1\nb: {c: 2}\n", child="base: _below.yaml\na: {c: 3}\nb: 4\n")
    assert content(child) == {"a": {"c": 3}, "b": 4}


def test_words_stay_as_they_were_written(write):
    child = write(_below="instruction: 007\nrate: 1.0e-4\n", child="base: _below.yaml\nname: no\n")
    read = read_yaml(child)
    assert read == {"instruction": "007", "rate": Written("1.0e-4", 1e-4), "name": "no"}


def test_a_base_has_a_base_and_lies_relative_to_the_file_that_names_it(write, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "middle.yaml").write_text("base: ../_root.yaml\nb: 2\nc: 2\n", encoding="utf-8")
    child = write(_root="a: 1\nb: 1\nc: 1\n", child="base: deeper/middle.yaml\nc: 3\n")
    assert content(child) == {"a": 1, "b": 2, "c": 3}
    assert [path.name for path in read_layers(child).files] == ["child.yaml", "middle.yaml", "_root.yaml"]


def test_overrides_lie_on_top_and_reach_what_only_the_base_says(write):
    child = write(_below="a: {b: 1, c: 1}\n", child="base: _below.yaml\na: {c: 2}\n")
    assert content(child, "--a.b=5", "--a.d=6", "--e=null") == {"a": {"b": 5, "c": 2, "d": 6}, "e": None}
    assert content(child, "--a={x: 1}", "--a.y=2") == {"a": {"x": 1, "y": 2}}


# Where a run is trained


def test_a_recipe_that_names_no_folder_trains_into_one_of_its_name(write):
    path = write(mine=MODEL)
    assert read_recipe(path).train.output_dir == "runs/mine"
    assert read_recipe(path, ["--train.output_dir=there"]).train.output_dir == "there"
    assert read_recipe(path, ["--train={use_cpu: true, report_to: none}"]).train.output_dir == "runs/mine"


def test_no_child_trains_into_its_base_s_folder(write):
    below = MODEL.replace("train: {", "train: {output_dir: runs/of_the_base, ")
    child = write(_root=below, middle="base: _root.yaml\n", child="base: middle.yaml\n")
    assert read_recipe(child).train.output_dir == "runs/child"
    assert read_recipe(child.with_name("middle.yaml")).train.output_dir == "runs/middle"
    own = write(own="base: _root.yaml\ntrain: {output_dir: runs/elsewhere}\n")
    assert read_recipe(own).train.output_dir == "runs/elsewhere"


@pytest.mark.parametrize("said", ["null", '""'])
def test_a_folder_that_is_said_to_be_none_is_refused(write, said):
    path = write(mine=MODEL.replace("train: {", f"train: {{output_dir: {said}, "))
    assert "train.output_dir" in refused(path, read_recipe)


# What is refused, naming both files


def test_a_base_that_is_not_there(write):
    path = write(child="base: _gone.yaml\n")
    said = refused(path)
    assert said.startswith(f"{path}: base: {path.with_name('_gone.yaml')}: no such recipe")


@pytest.mark.parametrize(
    ("first", "second"), [("base: child.yaml\n", None), ("base: other.yaml\n", "base: child.yaml\n")]
)
def test_a_chain_without_an_end(write, first, second):
    path = write(**({"other": second} if second else {}), child=first)
    said = refused(path)
    assert str(path) in said
    assert "a chain of bases must end" in said
    assert second is None or str(path.with_name("other.yaml")) in said


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("null", "base: null, but it needs a path"),
        ("[a.yaml]", "base: a list where a path belongs"),
        ("{a: b}", "base: a mapping where a path belongs"),
        ('""', "base: empty"),
        ("007", "no such recipe"),
        (".", "no such recipe (it is a folder)"),
        ("x.jsonl", "scored by `rivegs evaluate`"),
        ("_list.yaml", "not a recipe: it has no keys"),
        ("_broken.yaml", "not YAML: line 2"),
        ("_variants.yaml", "holds variants"),
    ],
)
def test_a_base_that_is_no_recipe(write, base, says):
    write(_list="- a\n", _broken="a: [\n", _variants="variants: {x: {base: y.yaml}}\n")
    path = write(child=f"base: {base}\n")
    said = refused(path)
    assert said.startswith(str(path))
    assert says in said


def test_a_base_alone_is_refused(write):
    path = write(_below=MODEL)
    for read in (read_yaml, read_recipe, read_cascade):
        assert refused(path, read) == f"{path}: a base of other recipes, which name it by `base:`; run one of those"


def test_a_wrong_value_names_the_file_where_it_was_written(write):
    child = write(_below=MODEL.replace("r: 8", "r: eight"), child="base: _below.yaml\nmodel: {dtype: float32}\n")
    below = child.with_name("_below.yaml")
    assert refused(child, read_recipe) == (f"{below}: lora.r: 'eight' is not a whole number (a base of {child})")
    child = write(_below=MODEL, child="base: _below.yaml\nlora: {rank: 8}\n")
    assert refused(child, read_recipe).startswith(f"{child}: lora.rank: no such key")
    child = write(_below=f"{MODEL}surprise: {{a: 1}}\n", child="base: _below.yaml\n")
    assert refused(child, read_recipe).startswith(f"{below}: surprise: no such key")
    child = write(_below=MODEL.replace("model: {base: tiny,", "model: {"), child="base: _below.yaml\n")
    assert refused(child, read_recipe).startswith(f"{child}: model.base: missing")
    child = write(_below=MODEL, child="base: _below.yaml\n")
    with pytest.raises(UserError, match=f"^{child}: lora.r: "):
        parse_recipe(Recipe, child, ["--lora.r=eight"])


# Variants


def test_variants_are_each_a_recipe_over_its_base(write):
    path = write(
        below=MODEL,
        many="variants:\n  short: {base: below.yaml, predict: {max_new_tokens: 9}}\n  whole: {tagger: {type: gold}}\n",
    )
    layered = read_layers(path)
    found = {name: plain(own.content) for name, own in layered.variants().items()}
    assert found["whole"] == {"tagger": {"type": "gold"}}
    assert found["short"] == {**content(path.with_name("below.yaml")), "predict": {"max_new_tokens": 9}}
    assert found["short"]["train"]["output_dir"] == "runs/below", "a variant is run, not trained"
    assert [file.name for file in layered.files] == ["many.yaml", "below.yaml"]
    assert read_layers(path.with_name("below.yaml")).variants() == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("variants: 3", "variants: needs a name for each"),
        ("variants: {}", "variants: needs a name for each"),
        ("variants: {x: 3}", "variants.x: needs `base: FILE`"),
        ("variants: {x: {}}", "variants.x: needs `base: FILE`"),
        ("variants: {../x: {base: below.yaml}}", "variants.../x: a name has letters"),
        ("variants: {x: {base: gone.yaml}}", "variants.x.base: "),
        ("variants: {x: {base: 3}}", "variants.x.base: "),
        ("variants: {x: {base: [a]}}", "variants.x.base: a list where a path belongs"),
        ("variants: {x: {base: many.yaml}}", "variants.x.base: "),
        ("variants: {x: {base: below.yaml}}\nseed: 3", "seed: a file of variants says nothing else"),
        ("base: below.yaml\nvariants: {x: {base: below.yaml}}", "a file of variants says nothing else"),
    ],
)
def test_variants_that_are_wrong(write, text, says):
    path = write(below=MODEL, many=f"{text}\n")
    said = refused(path)
    assert said.startswith(str(path))
    assert says in said


def test_a_file_of_variants_is_for_compare(write):
    path = write(below=MODEL, many="variants: {x: {base: below.yaml}}\n")
    assert refused(path, read_recipe) == f"{path}: a recipe of variants, which is for rivegs compare"


# Laws


KEYS = st.sampled_from("abc")
TREES = st.dictionaries(KEYS, st.recursive(st.integers(0, 9), lambda own: st.dictionaries(KEYS, own), max_leaves=6))


@given(TREES, TREES)
def test_what_the_child_says_holds_and_nothing_else_of_the_base_is_lost(tmp_path_factory, below, above):
    folder = tmp_path_factory.mktemp("layers")
    (folder / "_below.yaml").write_text(f"{below}", encoding="utf-8")
    (folder / "child.yaml").write_text(f"{ {'base': '_below.yaml', **above} }", encoding="utf-8")

    def check(found, under, over):
        assert found.keys() == under.keys() | over.keys()
        for key, own in found.items():
            if key not in over:
                assert own == under[key]
            elif isinstance(over[key], dict):
                check(own, under[key] if isinstance(under.get(key), dict) else {}, over[key])
            else:
                assert own == over[key]

    check(content(folder / "child.yaml"), below, above)
