"""Pictures as 49 regions of a ResNet (torchvision's), frozen."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.weights import load_checked, read_weights, tensors
from rivegs_mllm.types import UserError

SIDE = 224  # pixels, of a ResNet's pre-training
GRID = 7  # the last map of a ResNet at 224 pixels
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# ImageNet's statistics, with which torchvision's weights were trained.
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class ResNet(nn.Module):
    """A torchvision ResNet up to its last map, brought to 7 x 7 regions. Always in evaluation mode."""

    def __init__(self, name: str = "resnet152"):
        import torchvision

        super().__init__()
        if name not in RESNETS:
            raise UserError(f"{name!r} is none of {', '.join(RESNETS)}")
        self.resnet = torchvision.models.get_model(name, weights=None)
        self.channels = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ResNet:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 49, channels), row by row, of normalised pictures (B, 3, 224, 224)."""
        net = self.resnet
        maps = net.maxpool(net.relu(net.bn1(net.conv1(pictures))))
        maps = net.layer4(net.layer3(net.layer2(net.layer1(maps))))
        return F.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2)


def load_resnet(name: str, path: Path) -> ResNet:
    """A ResNet with the weights of a file: torchvision's own, or the published ``pytorch_encoder.bin``."""
    model = ResNet(name)
    wanted = model.state_dict()
    found = {f"resnet.{key.removeprefix('resnet.')}": value for key, value in tensors(read_weights(path)).items()}
    found = {key: value for key, value in found.items() if not key.startswith("resnet.fc.")}
    # Older files have no counters of batches, which a frozen network does not use.
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    load_checked(model, {**counters, **found}, path)
    return model


def resize_to_square(image: Image.Image) -> Image.Image:
    """A picture as a square of SIDE, nothing of it cut away."""
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def random_crop(image: Image.Image, seed: str) -> Image.Image:
    """A random square of SIDE pixels out of a picture, randomly mirrored, by ``seed``; as published, in testing too.

    A picture smaller than that is centred on black; the original took another picture in its place.
    """
    drawn = random.Random(seed)
    missing = [max(0, SIDE - side) for side in image.size]
    canvas = Image.new("RGB", tuple(max(SIDE, side) for side in image.size))
    canvas.paste(image.convert("RGB"), (missing[0] // 2, missing[1] // 2))
    left, top = (drawn.randint(0, side - SIDE) for side in canvas.size)
    square = canvas.crop((left, top, left + SIDE, top + SIDE))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawn.random() < 0.5 else square


def normalize(image: Image.Image) -> torch.Tensor:
    """A square as the ResNet takes it, (3, SIDE, SIDE)."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - _MEAN) / _DEVIATION


def pool_patches(patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(49, channels): the patches (rows * columns, channels) of any other vision tower as 7 x 7 regions."""
    maps = patches.T.reshape(1, -1, rows, columns).float()
    return F.adaptive_avg_pool2d(maps, GRID)[0].flatten(1).T
