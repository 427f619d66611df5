"""Makes torchvision importable beside a torch build that its compiled operators do not load on.

The registry's torchvision is linked against CUDA torch. Beside CPU torch its library does not load, and
``import torchvision`` (hence transformers' and peft's imports) fails on the missing schema of
``torchvision::nms``. torch calls `declare` whenever it is imported, by the entry point in pyproject.toml: where the
library really does not load, it declares the two schemas that torchvision needs and gives ``nms`` an implementation in
torch.
"""

from importlib.machinery import PathFinder
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # torch drops the registrations when the object dies


def _loads() -> bool:
    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # no torchvision, nothing to mend
    compiled = sorted(Path(spec.origin).parent.glob("_C.*"))
    try:
        for path in compiled:
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return bool(compiled)


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: indices of the boxes kept, best score first.

    ``boxes`` is (N, 4) xyxy, ``scores`` (N,). A box is dropped when its IoU with a better kept one is above the
    threshold, as torchvision's own operator does.
    """
    order = scores.argsort(descending=True, stable=True)  # stable, so that of equal scores the earlier box wins
    x0, y0, x1, y1 = boxes.unbind(1)
    areas = (x1 - x0) * (y1 - y0)
    kept = []
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(best)
        width = (torch.minimum(x1[best], x1[order]) - torch.maximum(x0[best], x0[order])).clamp(min=0)
        height = (torch.minimum(y1[best], y1[order]) - torch.maximum(y0[best], y0[order])).clamp(min=0)
        inter = width * height
        order = order[inter / (areas[best] + areas[order] - inter) <= iou_threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64, device=boxes.device)


def declare() -> None:
    """Declares the operators where they are missing. Does nothing beside a torch built for CUDA, where they load."""
    if torch.version.cuda is not None or _declared or _loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # the schema alone: torchvision looks for its name, nothing here calls it
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    _declared.append(library)
