"""Knowledge writers: nothing, texts of earlier, from the dataset, an encyclopedia or RiVEG's files."""

import dataclasses

import pytest
from cascade_suite import StageSuite

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.knowledge.base import NoKnowledge, ReplayKnowledge
from rivegs_mllm.cascade.knowledge.encyclopedia import Encyclopedia, Entry, read_encyclopedia
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import Prediction, Sample, UserError


class TestNoKnowledge(StageSuite):
    slot = "knowledge"

    @pytest.fixture(scope="class")
    def choice(self):
        return NoKnowledge()

    def test_it_does_something(self, cases, answers):
        assert answers == cases.partials


class TestReplayFromTheDataset(StageSuite):
    slot = "knowledge"

    @pytest.fixture(scope="class")
    def choice(self):
        return ReplayKnowledge(teacher=None, seed=3)


class TestReplayFromAnEncyclopedia(StageSuite):
    slot = "knowledge"

    @pytest.fixture(scope="class")
    def choice(self, emblems):
        return ReplayKnowledge(emblems / "encyclopedia.jsonl", fallback="The post names nobody.")


def texts(settings, samples, folder="."):
    partials = settings.load(folder)(samples, [Prediction(sample.id) for sample in samples])
    return [partial.knowledge for partial in partials]


def post(*tokens, knowledge=()):
    return Sample("1", tokens, knowledge=knowledge)


def test_a_teacher_is_chosen_or_drawn():
    samples = [Sample(str(number), ("a",), knowledge=("x", "y", "z")) for number in range(60)]
    assert texts(ReplayKnowledge(teacher=1), samples) == ["y"] * 60
    drawn = texts(ReplayKnowledge(teacher=None), samples)
    assert set(drawn) == {"x", "y", "z"}
    assert drawn == texts(ReplayKnowledge(teacher=None), samples)
    assert drawn != texts(ReplayKnowledge(teacher=None, seed=1), samples)


def test_a_post_without_text_is_an_error_unless_something_stands_in_its_place():
    samples = [post("a", knowledge=("x",)), post("b")]
    with pytest.raises(StageError, match=r"knowledge \(replay\): nothing is known of post '1' in the dataset"):
        texts(ReplayKnowledge(), samples)
    assert texts(ReplayKnowledge(fallback=""), samples) == ["x", ""]
    with pytest.raises(StageError, match="has 1 texts in the dataset, but `teacher` is 2"):
        texts(ReplayKnowledge(teacher=2, fallback=""), samples)


def test_the_encyclopedia_says_of_every_emblems_post_what_its_builder_says(emblems):
    for split in ("train", "test"):
        samples = read_split(emblems, split)
        for teacher, drop_mentions in enumerate(("The post names nobody.", "No names: everyday talk.")):
            settings = ReplayKnowledge(emblems / "encyclopedia.jsonl", teacher, fallback=drop_mentions)
            assert texts(settings, samples) == [sample.knowledge[teacher] for sample in samples]


def test_names_are_found_however_a_post_writes_them():
    known = [Entry("Ketey Goda", "hair", ("K",)), Entry("Goda", "hat", ("G",)), Entry("O'Hara", "red", ("H",))]
    encyclopedia = Encyclopedia(known)
    for tokens, names in (
        (("KETEY", "goda", "!"), ["Ketey Goda"]),
        (("Ketey", "Goda's", "song"), ["Ketey Goda"]),
        (("Ketey", "Goda", "'s", "song"), ["Ketey Goda"]),
        (("Goda’s", "#Goda", "Ketey"), ["Goda"]),
        (("Goda", "and", "(Ketey", "Goda)"), ["Goda", "Ketey Goda"]),
        (("o'hara's", "Ketey"), ["O'Hara"]),
        (("Godalive", "'s", "!"), []),
        ((), []),
    ):
        assert [entry.name for entry in encyclopedia.names_in(tokens)] == names
    assert encyclopedia.find("ketey goda 's").name == "Ketey Goda"
    assert encyclopedia.find("'s") is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"name": "A"}\n{"name": "a"}', ":2: 'a' is the same name as 'A'"),
        ('{"name": "A"\n', ":1: not JSON"),
        ("\n[1]", ":2: not a JSON object"),
        ('{"name": "!"}', ":1: name: '!' is no name"),
        ('{"name": "A", "knowledge": "x"}', ":1: knowledge: 'x' is not a list"),
        ('{"name": "A", "expression": 1}', ":1: expression: 1 is not a string"),
    ],
)
def test_an_encyclopedia_that_is_wrong_is_told_where(tmp_path, lines, said):
    path = tmp_path / "names.jsonl"
    path.write_text(lines)
    with pytest.raises(UserError, match=said):
        read_encyclopedia(path)
    with pytest.raises(UserError, match="no such file"):
        read_encyclopedia(tmp_path / "none.jsonl")


def test_knowledge_in_conll_form_is_found_by_the_post_s_words(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text(
        "Tutus\tB-PER\nsings\tO\n<EOS>\tX\nTutus\tX\nis\tX\na\tX\nfilm\tX\n\nLazy\tO\n<EOS>\tX\nNobody\tX\n"
    )
    samples = [post("Lazy"), post("Tutus", "sings"), post("other")]
    assert texts(ReplayKnowledge(path, fallback="-"), samples) == ["Nobody", "Tutus is a film", "-"]
    with pytest.raises(UserError, match="no encyclopedia"):
        texts(ReplayKnowledge(tmp_path / "x.csv"), samples)


def test_a_name_without_text_of_a_teacher_is_passed_over(tmp_path):
    path = tmp_path / "names.jsonl"
    path.write_text(
        '{"name": "A", "knowledge": ["a one", "a two"]}\n{"name": "B"}\n{"name": "C", "knowledge": ["c"]}\n'
    )
    settings = ReplayKnowledge(path)
    assert texts(settings, [post("C", "B", "A")]) == ["c a one"]
    with pytest.raises(StageError, match="has 1 texts"):
        texts(dataclasses.replace(settings, teacher=1), [post("C", "B", "A")])
