"""Processes on the CPU, by the launch configuration that the GPUs would have."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from rivegs_mllm.config.reading.shipped import FOLDER
from rivegs_mllm.rehearsal.check import FAULT, WARNING, Check
from rivegs_mllm.rehearsal.cost import Machine
from rivegs_mllm.rehearsal.steps import Plan

CONFIGS = FOLDER.parent / "accelerate_configs"
LONGEST = 900.0
"""Seconds after which processes that wait for each other are stopped."""
_OF_GPUS = ("deepspeed_multinode_launcher", "main_process_port", "rdzv_backend", "same_network")


def config_of(machine: Machine) -> str:
    """The file of ``accelerate_configs`` that launches a run there."""
    if machine.all == 1:
        return "single.yaml"
    return f"{'multi_node_' if machine.nodes > 1 else ''}zero{machine.zero}.yaml"


def launch(plan: Plan, machine: Machine, config: str) -> Iterator[Check]:
    """What the plan's processes find, of which there are two where the run has more than one. Each is started anew to
    resume."""
    processes = min(machine.all, 2)
    own = plan.path.with_name(config)
    content = yaml.safe_load((CONFIGS / config).read_text())
    if processes > 1 and (lacking := _lacking()):
        yield Check(WARNING, "launch", f"without DeepSpeed, as {lacking} is not here", "pip install 'rivegs-mllm[gpu]'")
        content = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU"}
    own.write_text(yaml.safe_dump(on_cpu(content, processes)))
    for _ in ("from the start", "resumed"):
        plan.found.unlink(missing_ok=True)
        failed = _run(plan, own)
        checks = [Check.from_json(found) for found in _found(plan)]
        yield from checks
        if not checks:
            yield Check(FAULT, "steps", f"the processes ended without a result: {failed or 'nothing was said'}")
        if not checks or any(check.level == FAULT for check in checks):
            return


def on_cpu(content: dict, processes: int) -> dict:
    """A launch configuration for GPUs as one for ``processes`` on the CPU, with the same settings of DeepSpeed."""
    own = {key: value for key, value in content.items() if key not in _OF_GPUS}
    if "deepspeed_config" in own:
        settings = dict(own["deepspeed_config"])
        settings.pop("deepspeed_multinode_launcher", None)
        settings["deepspeed_config_file"] = str(CONFIGS.parent / settings["deepspeed_config_file"])
        own["deepspeed_config"] = settings
    return {**own, "use_cpu": True, "num_machines": 1, "num_processes": processes}


def _lacking() -> str:
    """What DeepSpeed needs on a CPU and is not here, "" where all is."""
    if importlib.util.find_spec("deepspeed") is None:
        return "deepspeed"
    return next((name for name in ("g++", "ninja") if shutil.which(name) is None), "")


def _run(plan: Plan, config: Path) -> str:
    """Runs the processes to their end. Returns the last line of what they said in error, "" where they did not."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--main_process_port", "0", "-m", "rivegs_mllm.rehearsal.steps", str(plan.path)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with plan.path.with_name("output.txt").open("w") as output:
        launcher = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            code = launcher.wait(LONGEST)
        except subprocess.TimeoutExpired:
            return f"not at their end after {LONGEST:.0f} s; do they wait for each other?"
        finally:
            if launcher.poll() is None:  # also where the command is interrupted; the launcher ends what it started
                launcher.terminate()
                launcher.wait()
    if code == 0:
        return ""
    lines = plan.path.with_name("output.txt").read_text(errors="replace").strip().splitlines()
    told = [line for line in lines if "Error" in line]
    return (told or lines or [""])[-1][:300]


def _found(plan: Plan) -> list[dict]:
    return json.loads(plan.found.read_text()) if plan.found.exists() else []
