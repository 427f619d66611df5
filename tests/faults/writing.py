"""Every command that writes, at its smallest, with what it leaves: to be killed, doubled and run on a full disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as parquet
from chat_server import completion
from faults.forks import Run
from stage_training import write_recipe as write_stage
from tiny_base import save_adapter, write_recipe
from tiny_grounders import save_grounding_dino

from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.types import Prediction

CASCADE = "".join(f"{slot}: {{type: gold}}\n" for slot in ("tagger", "expander", "entailment", "grounder", "segmenter"))
DISTILL = """\
task: {{type: knowledge, examples: {{choose: none}}}}
teacher: {{type: openai, base_url: {url}/v1, model: m, api_key_env: null, timeout: 20}}
data: {{folder: {data}}}
store: {out}
"""
TRAINED = ("run/checkpoint-*", "run/metrics.json", "run/run.json", "run/recipe.yaml")
SHORT = ("--train.max_steps=2", "--train.save_strategy=steps", "--train.save_steps=1", "--train.logging_steps=10")


@dataclass(frozen=True)
class Command:
    """``arguments`` are made for an output, which is a file or folder called ``name`` in a work folder of its own.

    ``passing`` are patterns of what differs from run to run: costs and times. ``whole`` is the file that is written
    last, where what lies beside it may be cut off until it is there. ``once``: a second run is refused where the first
    has ended.
    """

    name: str
    output: str
    arguments: Callable[[Path], list[str]]
    passing: tuple[str, ...] = ()
    module: str = "rivegs_mllm.cli.main"
    whole: str = ""
    once: bool = False

    def run(self, folder: Path, **faults) -> Run:
        """The command in a work folder, to be started with faults."""
        return Run(self.arguments(folder / self.output), str(folder), self.module, **faults)

    def left(self, folder: Path) -> dict[str, object]:
        """What lies under final names in a work folder, by name: the results of which none may be half written."""
        there = {}
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_file() and not any(fnmatch(name, pattern) for pattern in (*TEMPORARY, *self.passing)):
                there[name] = _content(path)
        return there


DONE = ("is there already", "exists and is not overwritten")
"""What a command that is done ``once`` says of its result."""

TEMPORARY = ("*/log.txt", "*.log", "*.partial", "*.partial/*", "*.parts/*", "*.lock", "*/journal-*")


def _content(path: Path) -> object:
    if path.suffix == ".parquet":
        return sorted((row["key"], row["text"]) for row in parquet.read_table(path).to_pylist())
    return path.read_bytes()


def commands(folder: Path, emblems: Path, learned: Path, base: Path, url: str) -> dict[str, Command]:
    """All of them. ``url`` is that of a server that answers questions."""
    folder.mkdir(parents=True, exist_ok=True)
    data = learned / "data"
    gold = read_split(data, "dev")
    for number, name in enumerate(("one", "two")):
        said = [Prediction(sample.id, entities=sample.entities[number:]) for sample in gold]
        write_records(folder / f"{name}.jsonl", said)
    scored = [
        Prediction(sample.id, entities=tuple(replace(entity, visible_score=0.9) for entity in sample.entities))
        for sample in gold
    ]
    write_records(folder / "scored.jsonl", scored)
    one, two = str(folder / "one.jsonl"), str(folder / "two.jsonl")
    cascade = folder / "gold.yaml"
    cascade.write_text(CASCADE)
    boxes = folder / "boxes.yaml"
    boxes.write_text(CASCADE.rpartition("segmenter")[0])
    answering = write_recipe(folder / "answering", learned / "base", data)
    answering.write_text(
        answering.read_text().replace("  bins: 64", "  bins: 64\n  segments: [entities, visible, boxes]")
    )
    adapter = save_adapter(folder / "adapter", learned / "base", data)
    regions = folder / "regions.yaml"
    regions.write_text(f"proposer: {{type: zero_shot, model: {save_grounding_dino(folder / 'detector')}}}\nmost: 4\n")
    raw = folder / "raw"
    raw.mkdir()
    for split in ("train", "valid", "test"):
        (raw / f"{split}.txt").write_text(f"IMGID:{split}\nAda\tB-PER\n\n")
    table = folder / "posts.csv"
    table.write_text("text,mention,type\n" + "".join(f"Ada wins {place},Ada,athlete\n" for place in range(9)))
    training = write_recipe(folder / "training", base, data)
    stage = write_stage(folder / "stage", data)
    dev = ["--data", str(data), "--split", "dev"]

    def distilled(out: Path) -> list[str]:
        recipe = out.parent.parent / f"{out.parent.name}.yaml"
        recipe.write_text(DISTILL.format(url=url, data=data, out=out))
        return ["distill", str(recipe)]

    few = ["--train", "3", "--dev", "1", "--test", "1"]
    pictures = ["--image-root", str(emblems)]
    predict = ["predict", str(answering), "--base-model", *dev, "--out"]
    made = [
        Command("build", "emblems", lambda out: ["build", "emblems", "--out", str(out), "--seed", "1", *few]),
        Command("data", "page.html", lambda out: ["data", str(data), *pictures, "--out", str(out)]),
        Command("preview", "page.html", lambda out: ["preview", str(training), *pictures, "--out", str(out)]),
        Command(
            "report",
            "page.html",
            lambda out: ["report", str(data), one, two, "--split", "dev", *pictures, "--out", str(out)],
        ),
        Command(
            "evaluate",
            "scores.json",
            lambda out: ["evaluate", str(data), one, two, "--split", "dev", "--json", str(out)],
        ),
        Command(
            "export",
            "tasks",
            lambda out: ["export", "label-studio", str(data), one, "--split", "dev", "--out", str(out)],
        ),
        Command("import", "imported", lambda out: ["import", "csv", str(table), "--out", str(out)]),
        Command(
            "build a published dataset",
            "mner",
            lambda out: ["build", "twitter-2017", "--raw", str(raw), "--without-images", "--out", str(out)],
        ),
        Command(
            "propose", "regions", lambda out: ["propose", str(regions), *dev[:2], "--split", "dev", "--out", str(out)]
        ),
        Command(
            "calibrate",
            "calibration.json",
            lambda out: ["calibrate", str(data), str(folder / "scored.jsonl"), "--adapter", str(out.parent)],
            once=True,
        ),
        Command(
            "merge",
            "merged",
            lambda out: ["merge", str(adapter), "--data", str(data), "--posts", "1", "--out", str(out)],
            once=True,
        ),
        Command("predict", "said.jsonl", lambda out: [*predict, str(out)], ("*.costs.json",)),
        Command(
            "predict by a cascade",
            "said.jsonl",
            lambda out: ["predict", str(cascade), *dev, "--out", str(out)],
            ("*/costs.jsonl", "*/stages.json"),
        ),
        Command(
            "compare",
            "systems",
            lambda out: ["compare", str(cascade), str(boxes), *dev, "--out", str(out)],
            ("*/compare.*", "*costs*", "*/stages.json"),
        ),
        Command(
            "distill-examples",
            "some.jsonl",
            lambda out: ["distill-examples", str(data), "--count", "4", "--out", str(out)],
            once=True,
        ),
        Command(
            "distill",
            "store",
            distilled,
            ("store/runs.jsonl", "store/README.md", "store/manifest.json"),
            whole="store/manifest.json",
        ),
        Command(
            "train",
            "run",
            lambda out: [str(training), f"--train.output_dir={out}", *SHORT],
            TRAINED,
            "rivegs_mllm.train",
            "run/rivegs_contract.json",
        ),
        Command(
            "train a stage",
            "run",
            lambda out: [str(stage), f"--train.output_dir={out}", *SHORT],
            TRAINED,
            "rivegs_mllm.train",
            "run/stage.json",
        ),
    ]
    return {command.name: command for command in made}


def answered(request: dict, number: int):
    """What the server says to every question."""
    return completion("Named entities: none")
