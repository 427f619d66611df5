"""The run: a teacher over HTTP is asked what is left to ask, within its limits, and all that comes of it is kept."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, completion, text_of
from PIL import Image

from rivegs_mllm.cli import distill_command as command
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.distill.config import DistillData, DistillRecipe, Limits, Prices, read_distill
from rivegs_mllm.distill.runner import distill, dry_run, prepare
from rivegs_mllm.distill.tasks import CaptionTask, ExpressionTask, KnowledgeTask
from rivegs_mllm.llm.client import OpenAIChat, ReplayChat, RetryPolicy, Sampling, TeacherError
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.llm.few_shot import FewShotExample, write_examples
from rivegs_mllm.store.answer_store import read_rows, read_store
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

ROOT = Path(__file__).parents[2]
QUICK = RetryPolicy(attempts=3, seconds=5, first_wait=0.01, last_wait=0.02)


def posts(number: int) -> list[Sample]:
    made = []
    for index in range(number):
        tokens = ("Ann", "meets", f"Bob{index}", "in", "Bonn")
        entities = (
            Entity("Ann", "PER", (0, 1), expression="GOLDEXPRESSION", visible=True),
            Entity(f"Bob{index}", "PER", (2, 3), visible=False),
        )
        made.append(Sample(f"post-{index}", tokens, entities=entities, knowledge=("GOLDKNOWLEDGE",)))
    return made


def recipe(folder: Path, server, samples=None, **changes) -> DistillRecipe:
    if not (folder / "data" / "train.jsonl").exists() or samples is not None:
        write_records(folder / "data" / "train.jsonl", samples or posts(12))
    limits = changes.pop("limits", {})
    plain = {
        "data": DistillData(folder / "data"),
        "store": folder / "store",
        "task": KnowledgeTask(ExampleSelection(choose="none")),
        "teacher": OpenAIChat("made", server.url, api_key_env=None, timeout=5),
        "limits": Limits(max_concurrency=4, retry=QUICK, **limits),
    }
    return DistillRecipe(**{**plain, **changes})


def post_of(request: dict) -> str:
    """The post that a request is about: its last Text."""
    return [line for line in text_of(request).splitlines() if line.startswith("Text: ")][-1].removeprefix("Text: ")


def good(request: dict, _: int) -> Reply:
    return completion(f"Named entities: Ann (person); Bonn (location)\nAbout: {post_of(request)}")


def test_every_post_is_asked_once_and_the_second_run_asks_nothing(tmp_path):
    with ChatServer(good) as server:
        report = distill(recipe(tmp_path, server))
        assert (report.answered, report.failed, report.left, server.count) == (12, 0, 0, 12)
        assert server.most <= 4
        again = distill(recipe(tmp_path, server))
    assert (again.answered, again.done_before, server.count) == (0, 12, 12)
    rows = list(read_rows(tmp_path / "store"))
    assert {row.sample: row.text.split("About: ")[1] for row in rows} == {one.id: one.text for one in posts(12)}
    first = rows[0]
    assert (first.kind, first.mention, first.teacher, first.revision) == ("knowledge", "", "made", "made-1")
    assert (first.finish_reason, first.prompt_tokens, first.completion_tokens, first.tries) == ("stop", 10, 5, 1)
    assert json.loads(first.fields)["entities"][0] == {"text": "Ann", "type": "person"}
    assert first.faults == ()


def test_same_question_is_asked_once_and_an_edited_one_anew(tmp_path):
    samples = posts(3)
    samples += [replace(samples[0], id="copy-of-0"), replace(samples[1], id="copy-of-1")]
    with ChatServer(good) as server:
        report = distill(recipe(tmp_path, server, samples))
        assert (server.count, report.answered, report.reused) == (3, 3, 2)
        samples.append(replace(samples[2], id="copy-of-2"))
        samples[0] = replace(samples[0], tokens=("Ann", "edited"), entities=())
        report = distill(recipe(tmp_path, server, samples))
        assert (server.count, report.answered, report.reused, report.done_before) == (4, 1, 1, 4)
        samples[0] = posts(1)[0]  # back to what it was: answered already
        report = distill(recipe(tmp_path, server, samples, prices=Prices(1, 1)))
        assert (server.count, report.reused) == (4, 1)
    found = read_store(tmp_path / "store", "knowledge")
    assert found["post-0", ""][0].text.endswith(samples[0].text)
    assert found["copy-of-2", ""][0].tries == 0
    assert sum(row.prompt_tokens or 0 for row in read_rows(tmp_path / "store")) == 40, "sums are what was paid"


def test_another_teacher_or_sampling_is_another_question(tmp_path):
    with ChatServer(good) as server:
        distill(recipe(tmp_path, server))
        distill(recipe(tmp_path, server, teacher=OpenAIChat("other", server.url, api_key_env=None)))
        assert server.count == 24
        distill(recipe(tmp_path, server, sampling=Sampling(temperature=1.0)))
        assert server.count == 36
    assert [row.teacher for row in read_store(tmp_path / "store", "knowledge")["post-3", ""]] == ["made", "other"]


def test_failures_land_in_the_store_and_are_taken_up_alone(tmp_path):
    def reply(request, _):
        if "Bob3 " in post_of(request):
            return Reply(400, b'{"error": {"message": "no such thing"}}')
        return Reply(500, b"{}") if "Bob5 " in post_of(request) else good(request, 0)

    with ChatServer(reply) as server:
        report = distill(recipe(tmp_path, server))
        assert (report.answered, report.failed, report.left, report.requests) == (10, 2, 0, 14)
        report = distill(recipe(tmp_path, server))
        assert (report.failed_before, server.count) == (2, 14), "failed ones are left alone"
    failed = {row.sample: row for row in read_rows(tmp_path / "store") if row.status == "failed"}
    assert failed.keys() == {"post-3", "post-5"}
    assert "no such thing" in failed["post-3"].error
    assert (failed["post-3"].tries, failed["post-5"].tries) == (1, 3)
    with ChatServer(good) as server:
        samples = [*posts(12), *posts(14)[12:]]
        report = distill(recipe(tmp_path, server, samples), retry_failed=True)
        assert (report.answered, server.count) == (2, 2), "the two new posts are not asked here"
        assert {post_of(request) for request in server.requests} == {posts(12)[3].text, posts(12)[5].text}
    assert len(read_store(tmp_path / "store", "knowledge")) == 12


@pytest.mark.parametrize("status", [401, 404])
def test_wrong_key_and_wrong_model_stop_at_once_and_keep_what_is_under_way(tmp_path, status):
    def reply(request, number):
        return Reply(status, b'{"error": {"message": "no"}}') if number == 6 else good(request, number)

    with ChatServer(reply) as server, pytest.raises(TeacherError, match=str(status)):
        distill(recipe(tmp_path, server))
    rows = list(read_rows(tmp_path / "store"))
    assert 5 <= len(rows) == server.count - 1 < 12
    assert all(row.status == "answered" for row in rows)
    with ChatServer(good) as server:
        distill(recipe(tmp_path, server))
        assert server.count == 12 - len(rows)


def test_teacher_that_is_down_stops_the_run(tmp_path):
    with ChatServer(lambda *_: Reply(503, b"{}")) as server:
        report = distill(recipe(tmp_path, server, posts(40), limits={"max_consecutive_failures": 5}))
    assert "in a row failed" in report.stopped
    assert 5 <= report.failed <= 9
    assert report.left == 40 - report.failed


def test_max_requests_counts_every_try(tmp_path):
    with ChatServer(lambda _, number: Reply(500, b"{}") if number == 2 else good(_, number)) as server:
        report = distill(recipe(tmp_path, server, limits={"max_requests": 7}))
        assert server.count == report.requests == 7
        assert "7 requests" in report.stopped
        rows = list(read_rows(tmp_path / "store"))
        assert len(rows) in (5, 6)
        assert all(row.status == "answered" for row in rows)
        distill(recipe(tmp_path, server))
    assert len(read_store(tmp_path / "store", "knowledge")) == 12


def test_max_cost_is_never_passed_and_holds_over_runs(tmp_path):
    prices = Prices(prompt=1000.0, completion=10_000.0)  # 10 prompt tokens and 5 of answer: 0.06 a question

    def costly(server, most):
        return recipe(
            tmp_path, server, posts(40), prices=prices, limits={"max_cost": most}, sampling=Sampling(max_tokens=5)
        )

    with ChatServer(good) as server:
        size = len(text_of({"messages": prepare(costly(server, 9)).messages(0, "")}).encode())
        ahead = 4 * (size // 2 * prices.prompt + 5 * prices.completion) / 1e6
        report = distill(costly(server, 1.0 + ahead))
        assert 1.0 - 0.06 < report.cost <= 1.0 + ahead
        assert "cost" in report.stopped
        asked = server.count
        assert distill(costly(server, 1.0 + ahead)).requests <= 4
        assert sum(row.cost for row in read_rows(tmp_path / "store")) <= 1.0 + ahead
        assert asked < 40
    with pytest.raises(UserError, match="prices"):
        recipe(tmp_path, server, limits={"max_cost": 1.0})


def test_dry_run_asks_nobody_and_says_what_would_be_asked(tmp_path):
    samples = posts(6)
    samples += [replace(samples[0], id="copy-of-0")]
    with ChatServer(good) as server:
        wanted = recipe(tmp_path, server, samples, prices=Prices(2.0, 10.0), sampling=Sampling(max_tokens=100))
        said = dry_run(wanted)
        assert server.count == 0
        assert not (tmp_path / "store").exists()
        assert "7 posts, 7 questions of kind knowledge to made" in said
        assert "unique prompts to ask: 6" in said
        assert "1 to be asked once" in said
        assert "600 of answers (the longest that are allowed)" in said
        assert said.count("--- post-") == 3
        assert f"Text: {samples[0].text}\nQuestion: " in said
        distill(replace(wanted, limits=replace(wanted.limits, max_requests=2)))
        said = dry_run(wanted)
    assert "unique prompts to ask: 4" in said
    assert "answered before: 2" in said or "answered before: 3" in said
    assert "tokens expected: 40 of prompts (by earlier answers), 20 of answers (by earlier answers)" in said
    assert "cost expected: 0.00; the store has cost 0.00" in said


def test_wrong_answers_are_kept_and_flagged(tmp_path):
    said = {
        "Bob0 ": "",
        "Bob1 ": "I'm sorry, but I cannot help with that.",
        "Bob2 ": "Named entities: Ann (B-PER)\nx",
        "Bob3 ": "Named entities: Barack Obama (person)\nx",
        "Bob4 ": "It is a post.",
    }

    def reply(request, number):
        found = next((text for name, text in said.items() if name in post_of(request)), None)
        if "Bob5 " in post_of(request):
            return completion("Named entities: Ann (per", finish_reason="length")
        return good(request, number) if found is None else completion(found)

    with ChatServer(reply) as server:
        report = distill(recipe(tmp_path, server))
    faults = {row.sample: row.faults for row in read_rows(tmp_path / "store") if row.faults}
    assert faults == {
        "post-0": ("empty",),
        "post-1": ("refusal", "names cannot be read"),
        "post-2": ("label words",),
        "post-3": ("names that are not in the text",),
        "post-4": ("names cannot be read",),
        "post-5": ("cut off", "names cannot be read"),
    }
    assert report.faults["names cannot be read"] == 3
    assert len(read_store(tmp_path / "store", "knowledge", clean=True)) == 6


def test_endless_garbage_and_html_answers_are_failures_of_their_question_alone(tmp_path):
    def reply(request, number):
        if "Bob1 " in post_of(request):
            return completion("x" * 10_000_000)
        if "Bob2 " in post_of(request):
            return Reply(body=b"<html>hello</html>", headers={"content-type": "text/html"})
        return good(request, number)

    with ChatServer(reply) as server:
        report = distill(recipe(tmp_path, server))
    assert (report.answered, report.failed) == (10, 2)
    errors = {row.sample: row.error for row in read_rows(tmp_path / "store") if row.error}
    assert "longer than" in errors["post-1"]
    assert "<html>" in errors["post-2"]


def test_gold_is_in_no_prompt_but_the_mention_that_is_asked_about(tmp_path):
    """Neither through the post itself nor through an example that was made of the same post, or of a retweet of it."""
    samples = posts(12)
    samples.append(Sample("retweet", ("Ann", "meets", "Bob1", "in", "bonn"), entities=samples[1].entities))
    examples = [FewShotExample(one.id, one.text, relation=f"SECRET OF {one.id}.") for one in samples[:6]]
    write_examples(tmp_path / "examples.jsonl", examples)
    secret = {**{one.id: f"SECRET OF {one.id}." for one in samples}, "retweet": "SECRET OF post-1."}
    for choose, count in (("random", 5), ("random", 2)):
        task = KnowledgeTask(ExampleSelection(tmp_path / "examples.jsonl", choose, count))
        with ChatServer(good) as server:
            distill(recipe(tmp_path / f"{choose}{count}", server, samples, task=task))
        assert server.count == 13
        for request in server.requests:
            text = text_of(request)
            asked = next(one for one in samples if one.text == post_of(request))
            assert "GOLD" not in text
            assert text.count("SECRET") == count
            assert secret[asked.id] not in text
    poisoned = [replace(one, entities=tuple(replace(e, type="POISON") for e in one.entities)) for one in samples]
    with ChatServer(good) as server:
        distill(recipe(tmp_path / "plain", server, samples))
        assert distill(recipe(tmp_path / "plain", server, poisoned)).requests == 0, "another gold is the same question"
    with ChatServer(lambda *_: completion("somebody")) as server:
        distill(recipe(tmp_path / "expressions", server, samples, task=ExpressionTask()))
        assert all("GOLD" not in text_of(request) and "PER" not in text_of(request) for request in server.requests)


def test_too_few_examples_are_an_error(tmp_path):
    write_examples(
        tmp_path / "examples.jsonl", [FewShotExample("post-1", "Ann meets Bob1 in Bonn"), FewShotExample("x", "else")]
    )
    task = KnowledgeTask(ExampleSelection(tmp_path / "examples.jsonl", "random", 2))
    with ChatServer(good) as server, pytest.raises(UserError, match="too few"):
        distill(recipe(tmp_path, server, task=task))


def test_expressions_are_asked_a_mention_and_about_predicted_ones_too(tmp_path):
    samples = posts(3)
    with ChatServer(lambda request, _: completion("a person who meets people")) as server:
        distill(recipe(tmp_path, server, samples, task=ExpressionTask()))
        assert server.count == 6
        asked = [text_of(request).splitlines()[-2] for request in server.requests]
        assert sum("what is the Ann in the Text?" in line for line in asked) == 3
        predicted = [Prediction(one.id, entities=(Entity("Bonn", "LOC"), Entity("Bonn", "ORG"))) for one in samples]
        write_records(tmp_path / "predictions.jsonl", predicted)
        task = ExpressionTask(mentions=str(tmp_path / "predictions.jsonl"))
        assert distill(recipe(tmp_path, server, samples, task=task)).answered == 3
        write_records(tmp_path / "predictions.jsonl", predicted[:1])
        with pytest.raises(UserError, match="lacks 2 of the posts, post-1"):
            distill(recipe(tmp_path, server, samples, task=task))
    assert set(read_store(tmp_path / "store", "expression")) == {
        *((f"post-{index}", name) for index in range(3) for name in ("Ann", "Bonn", f"Bob{index}"))
    }


def test_captions_are_distilled_and_then_stand_in_prompts(tmp_path):
    samples = [replace(one, image=f"{one.id}.png", size=(8, 8)) for one in posts(3)]
    (tmp_path / "data").mkdir()
    for index, sample in enumerate(samples):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "data" / sample.image)
    (tmp_path / "data" / "post-2.png").write_bytes(b"not a picture")
    samples.append(posts(4)[3])  # without a picture
    with ChatServer(lambda *_: completion("two people at a table")) as server:
        report = distill(recipe(tmp_path, server, samples, task=CaptionTask()))
        assert (report.answered, report.failed, server.count) == (2, 1, 2)
    with ChatServer(good) as server:
        task = KnowledgeTask(ExampleSelection(choose="none"), captions=[tmp_path / "store"], pictures=True)
        distill(recipe(tmp_path, server, samples, task=task))
        described = [text_of(request) for request in server.requests]
    assert sum("Image description: two people at a table" in text for text in described) == 2
    assert (
        sum("Image description" not in text for text in described) == 1
    )  # post-2's picture is broken, it is not asked
    rows = {row.sample: row for row in read_rows(tmp_path / "store") if row.kind == "knowledge"}
    assert "not a picture" in rows["post-2"].error
    Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / "post-2.png")
    with ChatServer(good) as server:
        assert distill(recipe(tmp_path, server, samples, task=task)).answered == 1, "mended, it is a new question"


def test_no_picture_from_outside_the_dataset_is_sent_unless_the_recipe_says_so(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "other" / "secret.png")
    (tmp_path / "data" / "link.png").symlink_to("../other/secret.png")
    images = ["../other/secret.png", str(tmp_path / "other" / "secret.png"), "link.png"]
    samples = [replace(one, image=image) for one, image in zip(posts(3), images, strict=True)]
    with ChatServer(lambda *_: completion("red")) as server:
        report = distill(recipe(tmp_path, server, samples, task=CaptionTask()))
        assert (report.answered, report.failed, server.count) == (0, 3, 0)
        assert all("data.image_root" in row.error for row in read_rows(tmp_path / "store"))
        data = DistillData(tmp_path / "data", image_root=tmp_path / "other")
        assert (
            distill(recipe(tmp_path, server, samples, task=CaptionTask(), data=data)).answered == 1
        )  # one picture, three names


def test_replay_answers_what_the_store_holds(tmp_path):
    with ChatServer(good) as server:
        distill(recipe(tmp_path, server))
        samples = posts(13)
        teacher = ReplayChat(tmp_path / "store", "made")
        report = distill(recipe(tmp_path, server, samples, teacher=teacher, store=tmp_path / "replayed"))
        assert server.count == 12
    assert (report.answered, report.failed) == (12, 1)
    texts = [read_store(tmp_path / name, "knowledge")["post-4", ""][0].text for name in ("store", "replayed")]
    assert texts[0] == texts[1]


def test_card_tells_the_store(tmp_path):
    with ChatServer(lambda _, number: Reply(400, b"{}") if number == 1 else good(_, number)) as server:
        distill(recipe(tmp_path, server, prices=Prices(1000, 1000), licence="made up, free for all"))
        distill(recipe(tmp_path, server, task=ExpressionTask()))
    card = (tmp_path / "store" / "README.md").read_text()
    assert "| knowledge | made | 12 | 1 (8.3 %) | 0 (0.0 %) | 110 | 55 | 0.1650 |" in card
    assert "| expression | made | 24 |" in card
    assert "licence: made up, free for all" in card
    assert f"Text: {posts(1)[0].text}\nQuestion: " in card
    assert '"temperature":0.0' in card


def test_interrupted_run_waits_for_what_is_under_way(tmp_path):
    def slow(request, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return replace(good(request, number), delay=0.2)

    with ChatServer(slow) as server:
        report = distill(recipe(tmp_path, server))
    assert report.stopped == "interrupted"
    assert 5 <= report.answered == server.count <= 8
    assert report.left == 12 - report.answered
    assert len(list(read_rows(tmp_path / "store"))) == report.answered


def test_full_disk_stops_the_run_and_says_what_was_lost(tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.dont_write_bytecode = True\n"
        "sys.path[:0] = ['tests', 'tests/distill']\n"
        "from test_distill import *\n"
        "server = type('Server', (), {'url': sys.argv[2]})\n"
        "wanted = recipe(Path(sys.argv[1]), server)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "distill(wanted)"
    )
    with ChatServer(good) as server:
        arguments = [sys.executable, "-c", code, tmp_path, server.url]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        asked = server.count
        assert done.returncode == 1
        assert "store: cannot be written: " in done.stderr
        assert "StoreError" in done.stderr
        kept = len(list(read_rows(tmp_path / "store")))
        assert 1 <= kept < 12
        assert asked - kept <= 4
        distill(recipe(tmp_path, server))
        assert server.count == asked + 12 - kept, "what was not kept is asked again, and nothing else"
    assert len(read_store(tmp_path / "store", "knowledge")) == 12


def test_command_from_a_recipe(tmp_path, capsys):
    write_records(tmp_path / "data" / "train.jsonl", posts(5))
    with ChatServer(good) as server:
        (tmp_path / "recipe.yaml").write_text(
            f"data: {{folder: {tmp_path / 'data'}}}\nstore: {tmp_path / 'store'}\n"
            "task: {type: knowledge, examples: {choose: none}}\n"
            f"teacher: {{type: openai, model: made, base_url: '{server.url}', api_key_env: null}}\n"
        )
        assert command.run(tmp_path / "recipe.yaml", [], True, False) == 0
        assert "unique prompts to ask: 5" in capsys.readouterr().out
        overrides = ["--data.posts=3", "--limits.max_concurrency=2", "--teacher.name=alias"]
        assert command.run(tmp_path / "recipe.yaml", overrides, False, False) == 0
        assert "answered 3" in capsys.readouterr().out
        assert command.run(tmp_path / "recipe.yaml", ["--limits.max_requests=1"], False, False) == 1
        assert "stopped: 1 requests are sent" in capsys.readouterr().out
    assert {row.teacher for row in read_rows(tmp_path / "store")} == {"alias", "made"}
    for override, said in (("--surprise=1", "surprise"), ("--teacher.surprise=1", "surprise"), ("--task.type=x", "x")):
        with pytest.raises(UserError, match=said):
            read_distill(tmp_path / "recipe.yaml", [override])


def test_same_id_in_two_splits_is_an_error(tmp_path):
    write_records(tmp_path / "data" / "dev.jsonl", posts(1))
    with ChatServer(good) as server, pytest.raises(UserError, match="two of the splits"):
        distill(recipe(tmp_path, server, data=DistillData(tmp_path / "data", ["train", "dev"])))


def test_run_needs_no_gold(tmp_path):
    with ChatServer(good) as server:
        samples = [replace(one, entities=()) for one in posts(3)]
        assert distill(recipe(tmp_path, server, samples)).answered == 3
    assert len(read_split(tmp_path / "data", "train")) == 3
