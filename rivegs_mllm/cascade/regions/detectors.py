"""Proposers that detect: open-vocabulary ones of transformers, asked for what posts speak of, and Faster R-CNN."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import box_convert
from torchvision.transforms.functional import to_tensor

from rivegs_mllm.cascade.grounding.detector import Detector, load_detector
from rivegs_mllm.cascade.regions.base import Proposals, Propose, Proposer, split_signs
from rivegs_mllm.models.device import best_device, device_of
from rivegs_mllm.published.weights import load_checked, read_weights, tensors
from rivegs_mllm.types import UserError

PHRASES = ("person", "logo", "flag", "building", "team", "animal", "vehicle", "food", "object")
"""Kinds of things by which entities appear in Twitter's pictures."""

_CLASSES = 91  # of COCO, background among them
_MIN_SCORE = 0.01  # torchvision's default is 0.05; recall of proposals matters more than precision
_NETWORKS = {"resnet50_fpn": fasterrcnn_resnet50_fpn, "resnet50_fpn_v2": fasterrcnn_resnet50_fpn_v2}


@Proposer.register_subclass("zero_shot")
@dataclass
class ZeroShotProposer(Proposer):
    """The detectors of the grounder ``zero_shot``, such as Grounding DINO, asked for ``phrases``; a region's features
    are the state that its box is read from."""

    model: str
    revision: str | None = None
    phrases: list[str] = field(default_factory=lambda: list(PHRASES))

    def load(self) -> Propose:
        """The detector, on the GPU where there is one. Raises UserError for no phrases, and a model of no family."""
        if not self.phrases:
            raise UserError("proposer.phrases: empty; name what to detect")
        detector = load_detector(self.model, self.revision).eval()
        detector.to(best_device())
        return lambda image: detector_proposals(detector, image, self.phrases)


@torch.inference_mode()
def detector_proposals(detector: Detector, image: Image.Image, phrases: list[str]) -> Proposals:
    """All boxes of a detector, each by its best phrase."""
    texts = [". ".join(phrases)] if detector.family.phrases else phrases
    inputs = {**detector.encode_image(image), **_read(detector, texts)}
    found = detector.model(**{name: value.to(detector.model.device) for name, value in inputs.items()})
    states = found.last_hidden_state if detector.family.phrases else found.class_embeds
    corners = box_convert(found.pred_boxes[0].float(), "cxcywh", "xyxy").cpu() * detector.box_scale(image.size)
    scores = found.logits[0].float().amax(-1).cpu()
    return Proposals(corners, scores, split_signs(states[0].float().cpu()))


def _read(detector: Detector, texts: list[str]) -> dict[str, torch.Tensor]:
    """The tensors of texts; phrases of one text are kept apart by their full stops."""
    if not detector.family.phrases:
        return detector.tokenize(texts)[0]
    text = f"{texts[0].lower()}."
    limit = detector.max_tokens
    return dict(detector.processor.tokenizer([text], truncation=True, max_length=limit, return_tensors="pt"))


@Proposer.register_subclass("faster_rcnn")
@dataclass
class FasterRcnnProposer(Proposer):
    """Faster R-CNN of torchvision with the ``weights`` of a file, trained on COCO's 91 classes; a region's features are
    those of its box head, 1024 wide."""

    weights: Path
    network: str = "resnet50_fpn_v2"

    def load(self) -> Propose:
        """The network, on the GPU where there is one. Raises UserError for a file of other weights."""
        if self.network not in _NETWORKS:
            raise UserError(f"proposer.network: {self.network!r} is none of {', '.join(_NETWORKS)}")
        settings = {"weights": None, "weights_backbone": None, "num_classes": _CLASSES, "box_score_thresh": _MIN_SCORE}
        model = _NETWORKS[self.network](**settings)
        load_checked(model, tensors(read_weights(self.weights)), self.weights)
        model.eval().to(best_device())
        return lambda image: faster_rcnn_proposals(model, image)


@torch.inference_mode()
def faster_rcnn_proposals(model: FasterRCNN, image: Image.Image) -> Proposals:
    """The boxes of all classes, in pixels of the picture, and the box head's features of each."""
    device = device_of(model)
    images, _ = model.transform([to_tensor(image).to(device)])
    # The network's own forward, step by step, since it gives no features.
    maps = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, maps)
    (found,), _ = model.roi_heads(maps, proposals, images.image_sizes)
    pooled = model.roi_heads.box_roi_pool(maps, [found["boxes"]], images.image_sizes)
    height, width = images.image_sizes[0]
    scale = torch.tensor([image.width / width, image.height / height] * 2)
    return Proposals(found["boxes"].cpu() * scale, found["scores"].cpu(), model.roi_heads.box_head(pooled).cpu())
