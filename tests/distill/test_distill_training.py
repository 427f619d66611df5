"""From teachers to trained weights: several teachers' answers in one store, drawn in training, flagged ones omitted."""

import re
from dataclasses import replace

import pytest
from chat_server import ChatServer, completion, text_of
from test_distill import recipe
from tiny_base import make_recipe

from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.distill.config import DistillData
from rivegs_mllm.distill.runner import distill
from rivegs_mllm.distill.tasks import ExpressionTask
from rivegs_mllm.llm.client import OpenAIChat
from rivegs_mllm.train import make_trainer, train
from rivegs_mllm.training.preview import write_preview
from rivegs_mllm.types import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory, emblems):
    """Knowledge of every training post by the teachers one and two, and expressions by one.

    Teacher two's answer about the first post is a refusal.
    """
    folder = tmp_path_factory.mktemp("distilled")
    first = read_split(emblems, "train")[0]

    def reply(request, number):
        if "Background:" in text_of(request):
            return completion("a thing to be seen")
        if request["model"] == "two" and text_of(request).endswith(f"Text: {first.text}\n{_question(request)}"):
            return completion("I'm sorry, I cannot help with that.")
        return completion(f"Named entities: none\nThis is what {request['model']} knows.")

    with ChatServer(reply) as server:
        for model in ("one", "two"):
            teacher = OpenAIChat(model, server.url, api_key_env=None)
            asked = recipe(folder, server, data=DistillData(emblems), teacher=teacher)
            distill(asked)
        distill(replace(asked, task=ExpressionTask(), teacher=OpenAIChat("one", server.url, api_key_env=None)))
    return folder / "store"


def _question(request: dict) -> str:
    return "\n".join(text_of(request).splitlines()[-2:])


def texts(trainer, epochs=8) -> list[set[str]]:
    """Of each post the knowledge that its answer holds in the first epochs."""
    dataset = trainer.train_dataset
    found: list[set[str]] = [set() for _ in dataset.samples]
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for index, sample in enumerate(dataset.samples):
            found[index].add(
                next(piece.text for piece in dataset.pieces(dataset.augment(sample)) if piece.segment == "knowledge")
            )
    return found


def test_single_model_is_trained_from_a_store(tmp_path, base, emblems, store, capsys):
    short = ("--train.max_steps=2", "--max_length=768", f"--data.folder={emblems}")
    settings = (*short, f"--distilled.knowledge={store}", f"--distilled.expressions={store}")
    trainer = make_trainer(make_recipe(tmp_path / "clean", base, emblems, *settings))
    assert "0 have no knowledge there; 1 flagged answers left out" in capsys.readouterr().out
    first, *others = texts(trainer)
    assert len(first) == 1, "teacher two refused"
    assert "one knows" in "".join(first)
    assert sum("one knows" in "".join(each) and "two knows" in "".join(each) for each in others) >= 0.9 * len(others)
    for sample in trainer.train_dataset.samples:
        assert all(entity.expression == "a thing to be seen" for entity in sample.entities)
    flagged = make_trainer(make_recipe(tmp_path / "all", base, emblems, *settings, "--distilled.clean=false"))
    assert "sorry" in "".join(texts(flagged)[0])
    only = (*settings[:-1], "--distilled.teachers=[two]")
    alone = make_trainer(make_recipe(tmp_path / "two", base, emblems, *only))
    assert all(len(each) == 1 and "two knows" in "".join(each) for each in texts(alone)[1:])


def test_run_ends_and_is_not_taken_up_with_other_texts(tmp_path, base, emblems, store):
    settings = ("--train.max_steps=2", "--max_length=768", f"--distilled.knowledge={store}")
    out = train(make_recipe(tmp_path, base, emblems, *settings))
    assert (out / "adapter_model.safetensors").is_file()
    with pytest.raises(UserError, match=r"started with other settings: data\.train was"):
        train(make_recipe(tmp_path, base, emblems, *settings, "--distilled.clean=false"))


def test_preview_shows_the_texts_of_the_store(tmp_path, base, emblems, store):
    settings = ("--max_length=768", f"--distilled.knowledge={store}")
    write_preview(make_recipe(tmp_path, base, emblems, *settings), tmp_path / "page.html", 2)
    page = re.sub("<[^>]+>", "", (tmp_path / "page.html").read_text())
    assert "knows." in page


def test_store_of_other_posts_is_refused(tmp_path, base, emblems, store):
    with pytest.raises(UserError, match="has no usable knowledge"):
        make_trainer(make_recipe(tmp_path, base, emblems, f"--distilled.knowledge={store}", "--data.train=dev"))
    with pytest.raises(UserError, match="name a store"):
        make_trainer(make_recipe(tmp_path, base, emblems, "--distilled.clean=true"))
