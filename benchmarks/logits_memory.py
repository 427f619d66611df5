"""Time and peak memory of a training step with logits at all positions and at the answer's positions only.

``python benchmarks/logits_memory.py``: a Qwen2.5-VL with the real vocabulary of 152,064 and a small body, LoRA, batches
of 4 x 384 tokens of which the last 64 are the answer. Each way runs in a process of its own, so that its peak memory
is its own; on a GPU it is the allocator's peak. ``--smoke`` takes a small vocabulary and one step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

ROWS, LENGTH, ANSWER = 4, 384, 64


def measure(all_positions: bool, vocabulary: int, steps: int) -> dict[str, float]:
    """Seconds a step (median) and peak memory in GB above what the model alone takes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from rivegs_mllm.models.device import best_device
    from rivegs_mllm.training.loss import answer_loss

    torch.manual_seed(0)
    device = best_device()
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {"depth": 1, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "out_hidden_size": 256}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).to(device)
    model = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)"))
    ids = torch.randint(100, vocabulary - 100, (ROWS, LENGTH), device=device)
    labels = torch.full((ROWS, 1 + ANSWER), -100, device=device)
    labels[:, 1:] = ids[:, -ANSWER:]
    keep = 0 if all_positions else labels.shape[1]
    if all_positions:
        labels = torch.cat([labels.new_full((ROWS, LENGTH - labels.shape[1]), -100), labels], 1)
    weights = torch.ones(labels.shape, device=device)
    base = peak(device)
    seconds, loss = [], None
    for _ in range(steps):
        start = time.perf_counter()
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=keep).logits
        loss = answer_loss(logits, labels, weights)
        loss.backward()
        model.zero_grad()
        loss = loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return {"seconds": sorted(seconds)[len(seconds) // 2], "memory": peak(device) - base, "loss": loss}


def peak(device: str) -> float:
    """The process's peak memory so far, in GB."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small vocabulary and one step")
    parser.add_argument("--only", choices=("all", "answer"), help="one way alone, its figures as JSON")
    args = parser.parse_args()
    vocabulary, steps = (2_000, 1) if args.smoke else (152_064, 5)
    if args.only:
        print(json.dumps(measure(args.only == "all", vocabulary, steps)))
        return
    figures = {}
    for way in ("all", "answer"):
        command = [sys.executable, __file__, "--only", way, *(["--smoke"] if args.smoke else [])]
        figures[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"logits at {way:6} positions: {figures[way]['seconds']:6.2f} s a step, {figures[way]['memory']:5.2f} GB")
    ratio = {key: figures["all"][key] / max(figures["answer"][key], 1e-9) for key in ("seconds", "memory")}
    apart = abs(figures["all"]["loss"] - figures["answer"]["loss"]) / figures["all"]["loss"]
    print(f"ratio: {ratio['seconds']:.1f} in time, {ratio['memory']:.1f} in memory; losses differ by {apart:.1e}")


if __name__ == "__main__":
    main()
