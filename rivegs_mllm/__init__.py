"""Grounded multimodal named entity recognition, end to end or as a cascade."""

import sys
from importlib import import_module


class _BeforeTorchvision:
    """Runs ``torchvision_ops`` when torchvision is about to be imported, and never where it is not."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            import_module("rivegs_mllm.torchvision_ops")


if _BeforeTorchvision not in sys.meta_path:
    sys.meta_path.insert(0, _BeforeTorchvision)
