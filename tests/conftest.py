"""Set before torch is imported: tiny models run fastest on one thread, and nothing may reach a hub."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import rivegs_mllm  # noqa: E402, F401  before whatever imports torchvision
