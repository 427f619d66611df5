"""Parameters, memory and speed of SeqTR, UMT and H-Index at the published sizes, with random weights.

    python benchmarks/published_speed.py [--smoke]

One picture or post at a time, in float32, on the device there is; the memory is the process's greatest on a CPU, the
allocated on a GPU, each model in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.published.hindex.model import HIndex
from rivegs_mllm.published.hindex.sizes import Sizes as HIndexSizes
from rivegs_mllm.published.hindex.writing import generate as write_indices
from rivegs_mllm.published.seqtr.decoding import generate as write_coordinates
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.sizes import BOX, MASK
from rivegs_mllm.published.seqtr.sizes import Sizes as SeqTRSizes
from rivegs_mllm.published.umt.model import UMT
from rivegs_mllm.published.umt.pictures import ResNet
from rivegs_mllm.published.umt.sizes import Sizes as UMTSizes

Tensors = Mapping[str, torch.Tensor]
DEVICE = best_device()


def seqtr(task: str, small: bool) -> tuple[nn.Module, Tensors, Callable[[nn.Module, Tensors], object]]:
    """A model, a batch of one to train on, and how it answers. A small one has few and narrow layers."""
    narrow = {"darknet": (32,) * 6, "gru": 16, "width": 32, "ffn": 64, "encoder_layers": 1, "decoder_layers": 1}
    model = SeqTR(SeqTRSizes(words=10_000, task=task, **(narrow if small else {})))
    inputs = {
        "pictures": torch.rand(1, 3, 640, 640) * 255,
        "words": torch.randint(3, 10_000, (1, 15)),
        "shapes": torch.tensor([[640, 640]]),
        "targets": torch.randint(0, 1000, (1, model.sizes.places)),
    }
    return (
        model,
        inputs,
        lambda own, given: write_coordinates(own, own.encode(given["pictures"], given["words"], given["shapes"])),
    )


class WithResNet(nn.Module):
    """UMT with the ResNet that it looks through."""

    def __init__(self, sizes: UMTSizes) -> None:
        super().__init__()
        self.umt, self.vision_encoder = UMT(sizes), ResNet()

    def forward(self, picture: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        return self.umt(regions=self.vision_encoder(picture), **inputs)

    def tag(self, given: Tensors) -> list[list[int]]:
        """The labels of a post's pieces."""
        inputs = {name: given[name] for name in ("input_ids", "token_type_ids", "mask")}
        return self.umt.decode(self.umt.encode(**inputs, regions=self.vision_encoder(given["picture"])), given["mask"])


def umt(small: bool) -> tuple[nn.Module, Tensors, Callable[[nn.Module, Tensors], object]]:
    """As ``seqtr``, a post of 32 pieces."""
    ids, ones = torch.randint(1, 20_000, (1, 32)), torch.ones(1, 32, dtype=torch.long)
    inputs = {"input_ids": ids, "token_type_ids": 0 * ones, "mask": ones, "tags": ones, "auxiliary_tags": ones}
    model = WithResNet(UMTSizes(layers=1) if small else UMTSizes())
    return model, {**inputs, "picture": torch.rand(1, 3, 224, 224)}, lambda own, given: own.tag(given)


def hindex(small: bool) -> tuple[nn.Module, Tensors, Callable[[nn.Module, Tensors], object]]:
    """As ``seqtr``, a post of 32 pieces with 18 regions. Untrained, it writes until it may not go on."""
    ids = torch.randint(3, 50_000, (1, 32))
    ids[:, -1] = 2
    row = [0, 9, 10, 2, 5, 12, 3, 4, 1]
    inputs = {"ids": ids, "features": torch.rand(1, 18, 2048), "indices": torch.tensor([row])}
    given = {**inputs, "shares": torch.full((1, 18), 1 / 18)}
    return (
        HIndex(HIndexSizes(layers=1) if small else HIndexSizes(), 50_265),
        given,
        lambda own, one: write_indices(own, own.encode(one["ids"], one["features"])),
    )


KINDS = {"SeqTR, boxes": partial(seqtr, BOX), "SeqTR, masks": partial(seqtr, MASK), "UMT": umt, "H-Index": hindex}


def measure(name: str, rounds: int, small: bool) -> None:
    """Prints a row of the table."""
    torch.manual_seed(0)
    model, inputs, answer = KINDS[name](small)
    model.to(DEVICE).eval()
    inputs = {key: value.to(DEVICE) for key, value in inputs.items()}
    with torch.inference_mode():
        asked = seconds(lambda: answer(model, inputs), rounds)
    answering, trained = memory(), model.train()
    trained.apply(lambda part: part.eval() if isinstance(part, nn.BatchNorm2d) else None)  # a batch of one
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])

    def step() -> None:
        trained(**inputs)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    taught = seconds(step, rounds)
    millions = count_parameters(model) / 1e6
    print(f"| {name} | {millions:.0f} M | {answering:.1f} | {asked:.2f} | {memory():.1f} | {taught:.2f} |", flush=True)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The least of several times."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def memory() -> float:
    """GB, the greatest so far."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="the least of so many times (default 3)")
    parser.add_argument("--smoke", action="store_true", help="small models, once")
    known = parser.parse_args()
    print("| model | parameters | GB to answer | s to answer | GB to train, batch of 1 | s a step |")
    print("|---|---|---|---|---|---|")
    for name in KINDS:
        own = multiprocessing.get_context("spawn").Process(
            target=measure, args=(name, 1 if known.smoke else known.rounds, known.smoke)
        )
        own.start()
        own.join()
        if own.exitcode:
            parser.exit(1)


if __name__ == "__main__":
    main()
