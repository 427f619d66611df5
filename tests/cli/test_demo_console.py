"""The demo's commands at their smallest say what a person wants to know, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLOCK = r"(\d+ min )?\d+ s"
NUMBER = r"-?[\d,.]+(e[-+]\d+)?"
LINES = [
    rf"step \d+ of 14: [\w ',-]+ \(usually {CLOCK}; {CLOCK} to the end\)",
    r"\$ rivegs (build|audit|preview|train|predict|evaluate|report|compare) .*",
    r"wrote runs/demo/\S+(: \d+ posts, (none|\d+) with errors(: \d+ other)?)?",
    r"trained: runs/demo/\w+, \d+ steps",
    r"the model in runs/demo/\w+",
    r"(train|dev|test): \d+ posts, .* rotated",
    r"step \d/\d  (dev|test): \w+ [\d.]+(, \w+ [\d.]+)*",
    r"[\w() ]+ ━+ +\d+/\d+ .*",
    r"demo: page after \d+ s, all after \d+ s",
    r"(warning: runs/demo/\w+\.jsonl: )?not one of 6 answers could be read; .* what it should write",
]
AUDIT = [
    r"  -> .*",
    r" +train +dev +test",
    r"[\w ]+?( +\d+( x \d+)?){3}",
    r"warning: rotated picture: \d+",
    r"  \S+\.jpg: EXIF orientation \d; it is read upright",
]
STAGES = [
    r"\d+ of \d+ posts do not fit into \d+ tokens:",
    r"  train-\d+: tagger \(crf\): the last \d+ tokens of the knowledge did not fit and were cut.*",
]
TABLES = [
    r"[ ─━┏┳┓┡╇┩└┴┘│┃]+",
    r"Scores, protocol strict *",
    r"[│┃].*[│┃]",
    r"the demo's time",
    r"(\w+)? +(subset|system|task|span|MNER|GMNER|EEG|SMNER|EES|answer).*",
    r" ?(all|seen|unseen|subset|system|  seen|  unseen|e2e|tiny)? +[\w. –-]+",
    r"(only \d+ posts: figures|than 30|\d+ systems on|\d+ of \d+ posts whose answer|test-0).*",
    r"(F1 and stages|entities|Prec@0.5 and|is evaluated|Seconds per post|share count|is none\.).*",
    r"",
]


def test_the_demo_prints_what_a_person_wants_to_know():
    command = [sys.executable, "benchmarks/demo_time.py", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    expected = [re.compile(line) for line in (*LINES, *AUDIT, *STAGES, *TABLES)]
    lines = [line for line in (done.stdout + done.stderr).split("\n") if "\r" not in line]
    foreign = [line for line in lines if not any(pattern.fullmatch(line) for pattern in expected)]
    assert not foreign, "\n".join(foreign)
    assert len(lines) < 200
    assert done.stdout.splitlines()[-1].startswith("demo: page after ")


def test_the_list_knows_a_library_s_line():
    said = [
        "[2026-01-01 10:00:00,000] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU.",
        "Loading weights: 100%|██████████| 128/128 [00:00<00:00, 5192.48it/s]",
        "{'loss': '2.044', 'grad_norm': '1.507', 'learning_rate': '0.001485', 'epoch': '0.1667'}",
        "  warnings.warn(",
        "lib/python3.11/site-packages/transformers/modeling_utils.py:3303: FutureWarning: `a` is deprecated",
        "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'.",
    ]
    expected = [re.compile(line) for line in (*LINES, *AUDIT, *STAGES, *TABLES)]
    assert not [line for line in said if any(pattern.fullmatch(line) for pattern in expected)]
