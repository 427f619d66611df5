"""The segmenter ``segment_anything``: the original package (arXiv 2304.02643), prompted with boxes.

Its checkpoints ViT-B, ViT-L and ViT-H are .pth files. A model of other sizes has these in a .json of the same name
beside the .pth.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.segmentation.base import Segmenter, SegmentingStage
from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import one_line, read_object
from rivegs_mllm.types import Box, UserError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

STAGE = "segmenter (segment_anything)"
WEIGHTS_FILE = "sam.pth"


@dataclass(frozen=True)
class SamSizes:
    """The sizes of a model: of its image encoder (a ViT with windows), and ``channels`` of what decodes masks.

    ``side`` is that of the square that pictures are resized to, ``whole`` the blocks with global attention.
    ``filled`` is whether the model is prompted with the filled box as a mask beside the box itself, as models too
    small to learn from a box's corners where it is.
    """

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    window: int
    whole: tuple[int, ...]
    channels: int
    filled: bool = False


SIZES = {
    "vit_b": SamSizes(1024, 16, 768, 12, 12, 14, (2, 5, 8, 11), 256),
    "vit_l": SamSizes(1024, 16, 1024, 24, 16, 14, (5, 11, 17, 23), 256),
    "vit_h": SamSizes(1024, 16, 1280, 32, 16, 14, (7, 15, 23, 31), 256),
}
"""Those of the published checkpoints."""


def build_sam(size: SamSizes) -> Sam:
    """The model, untrained, of the package's own classes; numbers beside ``size`` are those of its build_sam."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = size.side // size.patch
    encoder = ImageEncoderViT(
        img_size=size.side,
        patch_size=size.patch,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        out_chans=size.channels,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=size.window,
        global_attn_indexes=size.whole,
    )
    prompts = PromptEncoder(size.channels, (grid, grid), (size.side, size.side), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=size.channels,
        transformer=TwoWayTransformer(depth=2, embedding_dim=size.channels, num_heads=8, mlp_dim=8 * size.channels),
        iou_head_depth=3,
        iou_head_hidden_dim=size.channels,
    )
    return Sam(encoder, prompts, decoder)


def load_sam(checkpoint: Path, named: str | None) -> tuple[Sam, SamSizes]:
    """The model in a .pth file, and its sizes: those of SIZES that are ``named``, or None for those in its .json.

    Raises StageError where the file is not there, is no checkpoint, or is one of other sizes.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise StageError(f"{STAGE}: {checkpoint} cannot be loaded as a checkpoint: {one_line(error)}") from None
    size = _size(checkpoint, named)
    model = build_sam(size)
    wanted = model.state_dict()
    if not isinstance(state, dict) or state.keys() != wanted.keys() or _shapes(state) != _shapes(wanted):
        raise StageError(
            f"{STAGE}: {checkpoint} is not of the size {named or 'that its .json says'}, an image encoder of "
            f"{size.depth} blocks and width {size.width}: it {_described(state)}; set `size` to what it is"
        )
    model.load_state_dict(state)
    return model.eval(), size


def save_sam(model: Sam, size: SamSizes, folder: Path) -> None:
    """Writes ``sam.pth`` and ``sam.json``."""
    write_json((folder / WEIGHTS_FILE).with_suffix(".json"), asdict(size))
    torch.save(model.state_dict(), folder / WEIGHTS_FILE)


def _size(checkpoint: Path, named: str | None) -> SamSizes:
    if named is not None:
        return SIZES[named]
    path = checkpoint.with_suffix(".json")
    hint = f"set `size`: {', '.join(SIZES)}"
    try:
        raw = read_object(path, hint)
        return SamSizes(**{**raw, "whole": tuple(raw["whole"])})
    except (UserError, TypeError, KeyError) as error:
        raise StageError(f"{STAGE}: {path} does not give the model's sizes ({one_line(error)}); {hint}") from None


def _shapes(state: dict) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items() if isinstance(value, torch.Tensor)}


def _described(state: object) -> str:
    """What a file holds instead of what was expected."""
    patches = state.get("image_encoder.patch_embed.proj.weight") if isinstance(state, dict) else None
    if patches is None:
        return "holds no model of segment-anything"
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    width = patches.shape[0]
    own = next((name for name, size in SIZES.items() if (size.depth, size.width) == (depth, width)), "none of these")
    return f"has {depth} blocks and width {width} ({own})"


@dataclass(frozen=True)
class PromptedSam:
    """A model that segments what boxes hold: a ``Segment`` of ``rivegs_mllm.cascade.segmentation.base``."""

    model: Sam
    size: SamSizes

    @torch.inference_mode()
    def __call__(self, image: Image.Image, boxes: Sequence[Box]) -> list[np.ndarray]:
        """The likeliest mask of each box; the picture is embedded once."""
        from segment_anything import SamPredictor

        predictor = SamPredictor(self.model)
        predictor.set_image(np.asarray(image))
        corners = torch.tensor([[box.xmin, box.ymin, box.xmax, box.ymax] for box in boxes], device=predictor.device)
        prompts = predictor.transform.apply_boxes_torch(corners, predictor.original_size)
        masks, _, _ = predictor.predict_torch(
            None, None, boxes=prompts, mask_input=box_mask_prompts(prompts, self.size), multimask_output=False
        )
        return list(masks[:, 0].cpu().numpy())


def mask_side(size: SamSizes) -> int:
    """The side in pixels of the masks that the model takes and predicts, four times its grid's, before resizing."""
    return 4 * (size.side // size.patch)


def box_mask_prompts(boxes: torch.Tensor, size: SamSizes) -> torch.Tensor | None:
    """The mask prompts of boxes (N, 4) in pixels of the square: (N, 1, grid, grid), 1 in the box; or None."""
    if not size.filled:
        return None
    grid = mask_side(size)
    centres = (torch.arange(grid, device=boxes.device) + 0.5) * size.side / grid
    x, y = centres[None, None, :], centres[None, :, None]
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    return ((x > left) & (x < right) & (y > top) & (y < bottom)).float()[:, None]


# The stage of a cascade


@Segmenter.register_subclass("segment_anything")
@dataclass
class SegmentAnything(Segmenter):
    """``checkpoint`` is a .pth file; ``size`` vit_b, vit_l, vit_h, or null where a .json beside it gives the sizes."""

    checkpoint: Path
    size: str | None = None
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size not in SIZES:
            raise UserError(f"size: {self.size!r} is none of {', '.join(SIZES)}, null")

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError as ``load_sam`` does."""
        model, size = load_sam(self.checkpoint, self.size)
        model.to(best_device())
        num_parameters = count_parameters(model)
        return SegmentingStage("segment_anything", PromptedSam(model, size), folder, num_parameters)
