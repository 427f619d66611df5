"""Systems side by side: the ladder of perfect stages, an end-to-end model, one table."""

import html.parser
import io
import json
import os
import re
from importlib.metadata import version

import pytest
from rich.console import Console

from eval.stage_metrics import with_nulls
from rivegs_mllm.compare.run import as_tables, compare
from rivegs_mllm.compare.tables import as_markdown, grounded
from rivegs_mllm.data.jsonl import read_predictions, read_split
from rivegs_mllm.types import UserError

GOLD = {slot: {"type": "gold"} for slot in ("tagger", "expander", "entailment", "grounder", "segmenter")}


def write(folder, name, **slots):
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**GOLD, **slots}))  # JSON is YAML
    return path


def f1(result, name, subset="all"):
    return {task: row["f1"] for task, row in result["systems"][name]["scores"]["strict"][subset].items()}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """All stages perfect, and the ladder: one after the other replaced by one that is not."""
    folder = tmp_path_factory.mktemp("recipes")
    return [
        write(folder, "gold"),
        write(folder, "no_expressions", expander={"type": "none"}),
        write(folder, "all_visible", entailment={"type": "always"}),
        write(folder, "filled_boxes", segmenter={"type": "box"}),
        write(folder, "no_boxes", grounder=None, segmenter=None),
    ]


@pytest.fixture(scope="module")
def compared(recipes, emblems, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    return compare(recipes, emblems, "test", out), out


def test_perfect_stages_are_perfect_in_all_five_tasks(compared):
    result, _ = compared
    for subset in ("all", "seen", "unseen"):
        assert f1(result, "gold", subset) == dict.fromkeys(("MNER", "GMNER", "EEG", "SMNER", "EES"), 1.0)


def test_a_stage_that_is_replaced_costs_its_own_tasks_alone(compared, emblems):
    result, _ = compared
    assert f1(result, "no_expressions") == f1(result, "gold")  # nobody after it reads them
    entities = [entity for sample in read_split(emblems, "test") for entity in sample.entities]
    hidden = sum(not entity.visible for entity in entities) / len(entities)
    always = result["systems"]["all_visible"]
    assert always["stages"]["all"]["entailment"]["accuracy"] == pytest.approx(1 - hidden)
    assert f1(result, "all_visible")["MNER"] == 1
    filled = f1(result, "filled_boxes")
    assert filled["GMNER"] == 1
    assert 0 < result["systems"]["filled_boxes"]["stages"]["all"]["segmentation"]["mean_iou"] < 1
    blind = f1(result, "no_boxes")
    assert blind["MNER"] == 1
    assert blind["GMNER"] == pytest.approx(hidden)  # right where there is nothing to find
    assert "SMNER" not in blind
    shares = {name: grounded(system["stages"]["all"]) for name, system in result["systems"].items()}
    assert shares == {"gold": 1, "no_expressions": 1, "all_visible": 1, "filled_boxes": 1, "no_boxes": 0}


def test_what_is_saved_is_what_is_shown(compared, emblems):
    result, out = compared
    assert json.loads((out / "compare.json").read_text()) == with_nulls(result)
    page = (out / "compare.md").read_text()
    assert page == as_markdown(result)
    assert "| gold | all | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 |" in page
    [no_boxes] = [line for line in page.splitlines() if line.startswith("| no_boxes | unseen |")]
    assert [no_boxes.split(" | ")[place] for place in (5, 6, -4)] == ["-", "-", "-"]  # SMNER, EES, mask mIoU
    assert "| system | tagger | expander | entailment | grounder | segmenter |" in page
    assert re.search(r"^\| no_boxes( \| gold 0\.\d{3}){3} \| - \| - \|$", page, re.MULTILINE)
    predictions = read_predictions(out / "gold.jsonl")
    assert [prediction.id for prediction in predictions] == [sample.id for sample in read_split(emblems, "test")]


def test_the_terminal_s_tables_fit_80_columns(compared):
    result, _ = compared
    file = io.StringIO()
    Console(file=file, width=80).print(as_tables(result))
    lines = [line.strip() for line in file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    gold = [line for line in lines if line.startswith("gold ")]
    assert [line.count("100.00") for line in gold] == [5, 6, 0, 0]
    assert [line.split()[-1] for line in lines if line.startswith("no_boxes ")][-1] == "-"


class Page(html.parser.HTMLParser):
    """The cells of a page's tables, row by row, without what explains their terms; their heads on a phone and how they
    are set off; and what the page links to or loads."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.links, self.heads, self.marks, self.about = [], [], [], {}, 0
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.inside = True
            self.rows[-1].append("")
            if tag == "td":
                self.heads.append(attrs.get("data-head"))
                self.marks[len(self.rows) - 1, len(self.rows[-1]) - 1] = attrs.get("class")
        self.about += attrs.get("class") == "about"
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.inside = False
        elif tag == "span" and self.about:
            self.about -= 1

    def handle_data(self, data):
        if self.inside and not self.about:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()


def test_the_page_has_the_same_figures_and_needs_no_other_file(compared, recipes):
    _, out = compared
    text = (out / "compare.html").read_text()
    page = Page(text)
    assert page.links == []
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert page.rows[0] == ["system", "MNER", "GMNER", "EEG", "SMNER", "EES"]
    assert page.rows[1] == ["all posts"]
    assert page.rows[2] == ["gold", *["100.00"] * 5]
    assert page.rows[6][0] == "no_boxes"
    assert page.rows[6][4:] == ["–", "–"]  # without boxes there are no masks
    assert page.rows[7] == ["seen"]
    assert None not in page.heads  # on a phone the figures have their heads beside them
    assert page.marks[2, 2] == "best"  # gold's GMNER beside that of no_boxes
    assert page.marks[6, 2] is None
    assert {page.marks[row, 1] for row in range(2, 7)} == {None}  # all systems have the same MNER
    recipe = (out / "all_visible.recipe.yaml").read_text()
    assert f"type: always  # from {recipes[2]}" in recipe
    assert str(recipes[2]) in text
    [seconds] = [row for row in page.rows if row[0] == "no_boxes" and row[1].startswith("gold ")]
    assert [cell.split()[0] for cell in seconds] == ["no_boxes", "gold", "gold", "gold", "–", "–"]


def test_each_further_system_is_compared_with_the_first(compared):
    result, out = compared
    assert list(result["differences"]) == ["no_expressions", "all_visible", "filled_boxes", "no_boxes"]
    row = result["differences"]["all_visible"]["GMNER"]
    assert row["difference"] == f1(result, "all_visible")["GMNER"] - 1 < 0
    rows = Page((out / "compare.html").read_text()).rows
    [shown] = [cells for cells in rows if cells[0] == "all_visible" and "p" in cells[1]]
    assert shown[1].startswith("+0.00")
    assert shown[2].startswith(f"{100 * row['difference']:+.2f}".replace("-", "−"))
    assert f"p\u00a0=\u00a0{row['p']:.4f}" in shown[2]


def test_few_posts_are_warned_of_where_their_significance_is_shown(compared):
    page = (compared[1] / "compare.html").read_text()
    assert "only 6 posts: figures of fewer than 30 say little" in page.split("Difference to gold")[0]
    assert "only 6 posts" in page.split("Difference to gold")[1]


def test_one_system_has_nothing_to_be_compared_with(recipes, emblems, tmp_path):
    result = compare(recipes[:1], emblems, "test", tmp_path / "out")
    assert result["differences"] == {}
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Difference to" not in page
    assert "cascade of tagger gold (oracle), expander gold (oracle)" in page


def test_the_page_says_how_it_was_made(compared, recipes, emblems):
    page = (compared[1] / "compare.html").read_text()
    assert f"rivegs compare {recipes[0]}" in page
    assert f"--data {emblems} --split test" in page
    assert f"version {version('rivegs-mllm')}" in page


def test_compared_again_nothing_is_run_again(compared, recipes, emblems):
    result, out = compared
    before = (out / "gold" / "1-tagger.jsonl").stat().st_mtime_ns
    assert compare(recipes, emblems, "test", out) == result
    assert (out / "gold" / "1-tagger.jsonl").stat().st_mtime_ns == before


def test_an_end_to_end_model_stands_beside_itself_in_slots(trained, tmp_path):
    mllm = {"type": "mllm", "recipe": str(trained.recipe)}
    slots = dict.fromkeys(("knowledge", "tagger", "expander", "entailment", "grounder"), mllm)
    alone = write(tmp_path, "alone", **slots, segmenter=None)
    perfect = write(tmp_path, "perfect_boxes", **{**slots, "grounder": {"type": "gold"}}, segmenter=None)
    result = compare([trained.recipe, alone, perfect], trained.data, "dev", tmp_path / "out")
    whole, own, better = (result["systems"][name] for name in (trained.recipe.stem, "alone", "perfect_boxes"))
    assert own["scores"]["strict"] == whole["scores"]["strict"]
    assert own["total"]["parameters"] == whole["total"]["parameters"] > 100_000
    assert [cost["slot"] for cost in whole["costs"]] == ["answer"]
    boxes = better["stages"]["all"]["grounding"]
    assert boxes["precision"] == 1 or not boxes["total"]
    assert better["scores"]["strict"]["all"]["GMNER"]["f1"] >= own["scores"]["strict"]["all"]["GMNER"]["f1"]
    assert all(cost["seconds"] > 0 for cost in own["costs"])


def test_wrong_recipes_are_told_before_anything_is_run(recipes, emblems, tmp_path):
    broken = write(tmp_path, "broken", entailment=None)
    (tmp_path / "twice").mkdir()
    again = write(tmp_path / "twice", "gold")
    for some, said in (
        ([recipes[0], broken], r"broken.yaml: grounder \(gold\): needs what the slot 'entailment' fills"),
        ([recipes[0], again], "have the same name, gold; rename one"),
        ([recipes[0], tmp_path / "none.yaml"], "no such recipe"),
    ):
        with pytest.raises(UserError, match=said):
            compare(some, emblems, "test", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_error_in_a_run_names_the_system(recipes, emblems, tmp_path):
    lost = write(tmp_path, "lost", expander={"type": "replay", "source": str(tmp_path / "none.jsonl")})
    with pytest.raises(UserError, match=r"lost.yaml: .*none.jsonl: no such file"):
        compare([recipes[0], lost], emblems, "test", tmp_path / "out")
    assert (tmp_path / "out" / "gold.jsonl").exists()


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="RIVEGS_DATA names the folder with twitter_gmner")
def test_perfect_stages_are_perfect_on_twitter_gmner(tmp_path):
    from pathlib import Path

    from data_builders.twitter_gmner import build_twitter_gmner

    raw = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner" / "Twitter10000_v2.0"
    build_twitter_gmner(raw, [], tmp_path / "data", True)
    recipes = [Path("recipes/cascade/tiny_ablations.yaml")]
    result = compare(recipes, tmp_path / "data", "test", tmp_path / "out", only=["gold"])
    assert f1(result, "gold") == dict.fromkeys(("MNER", "GMNER", "EEG"), 1.0)


def test_systems_of_other_types_are_scored_on_the_types_of_all(tmp_path, emblems, capsys):
    people, places = write(tmp_path, "people", types=["PER"]), write(tmp_path, "places", types=["PER", "LOC"])
    result = compare([people, places], emblems, "test", tmp_path / "out")
    said = capsys.readouterr().out
    gold = [entity.type for sample in read_split(emblems, "test") for entity in sample.entities]
    others = len(gold) - gold.count("PER") - gold.count("LOC")
    assert f"test: {others} of {len(gold)} entities are of other types and left out" in said
    assert "people: does not know 'LOC'" in said
    assert f1(result, "places")["MNER"] == 1
    row = result["systems"]["people"]["scores"]["strict"]["all"]["MNER"]
    assert (row["precision"], row["recall"]) == (1, pytest.approx(gold.count("PER") / (len(gold) - others)))
    with pytest.raises(UserError, match=r"nobody\.yaml: types: 'athlete': no type of"):
        compare([write(tmp_path, "nobody", types=["athlete"])], emblems, "test", tmp_path / "none")
