"""The files for clusters, as far as a machine without one can try them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_train import ROOT
from tiny_base import write_recipe

SLURM = ROOT / "environment" / "slurm.sh"
STEPS = ("--train.max_steps=40", "--train.save_strategy=steps", "--train.save_steps=100")
STUBS = {
    "srun": 'shift; SLURM_NODEID=0 exec "$@"',
    "scontrol": 'case $1 in show) echo 127.0.0.1;; *) echo "$@" >> "$REQUEUED";; esac',
}
"""What Slurm's commands do for one node: a step starts there, its name is asked for, the job is queued again."""


def test_the_script_is_shell_and_slurm_reads_its_settings():
    assert subprocess.run(["bash", "-n", str(SLURM)], check=False).returncode == 0
    settings = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=B:TERM@180" in settings


def test_skypilot_trains_by_files_that_are_there():
    task = yaml.safe_load((ROOT / "environment" / "skypilot.yaml").read_text())
    assert (ROOT / task["envs"]["RECIPE"]).is_file()
    assert "accelerate_configs/zero2.yaml" in task["run"]
    assert (ROOT / "accelerate_configs" / "zero2.yaml").is_file()


@pytest.fixture
def job(tmp_path, base, emblems):
    """Starts the script as the one node of a job with two processes; the recipe, and where requeueing is noted."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, does in STUBS.items():
        (commands / name).write_text(f"#!/bin/bash\n{does}\n")
        (commands / name).chmod(0o755)
    recipe, noted = write_recipe(tmp_path, base, emblems), tmp_path / "requeued"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_JOB_NODELIST": "node[1]",
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "CONFIG": "accelerate_configs/cpu_zero2.yaml",
        "PORT": "0",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "REQUEUED": str(noted),
    }

    def start(output: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [str(SLURM), str(recipe), *STEPS],
            cwd=ROOT,
            env=environment,
            stdout=output.open("wb"),
            stderr=subprocess.STDOUT,
        )

    return start, tmp_path, noted


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed builds an operator with g++")
@pytest.mark.xdist_group("two processes")
def test_a_job_whose_time_is_over_saves_and_is_queued_again(job):
    start, folder, noted = job
    output = folder / "output"
    running = start(output)
    deadline = time.monotonic() + 300
    while "step 2/40" not in output.read_text() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    code = running.wait(120)
    said = output.read_text()
    assert code != 0, said
    assert "SIGTERM: stopped at step" in said
    assert noted.read_text() == "requeue 7\n"
    (checkpoint,) = (folder / "run").glob("checkpoint-*")
    before = int(checkpoint.name.rpartition("-")[2])
    assert 2 <= before < 40
    again = start(output)
    assert again.wait(400) == 0, output.read_text()
    assert f"{40 - before} steps after the {before} of before" in output.read_text()
    assert noted.read_text() == "requeue 7\n"
