"""Calibration of ``visible_score``: reliability, and the temperature and threshold that fit it best.

All is measured over the entities whose mention and type are right and whose visibility the gold gives.
Reliability and expected calibration error as in Guo et al., 2017, section 2; temperature scaling as in section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from eval.protocols import GMNER, STRICT, boxes_of, is_visible
from eval.scores import join
from eval.stage_metrics import GoldMatch, align, find, share
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

FILE_NAME = "calibration.json"
VERSION = 1
_EDGE = 1e-6  # scores of 0 and 1 have no finite logit


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns a raw score into a probability, and holds the probability from which on an entity counts as visible."""

    temperature: float = 1.0
    threshold: float = 0.5

    def probability(self, score: float) -> float:
        """The calibrated probability of a raw ``visible_score``: its logit divided by the temperature."""
        score = min(max(score, _EDGE), 1 - _EDGE)
        return 1 / (1 + math.exp(-math.log(score / (1 - score)) / self.temperature))

    def is_visible(self, score: float) -> bool:
        """The decision on a raw ``visible_score``."""
        return bool(self.probability(score) >= self.threshold)

    def apply(self, prediction: Prediction) -> Prediction:
        """The prediction with calibrated scores and the decisions that follow from them.

        Boxes are left as they are. What has none is not made visible: a decision for it comes too late.
        """
        return replace(prediction, entities=tuple(self._decided(entity) for entity in prediction.entities))

    def _decided(self, entity: Entity) -> Entity:
        if entity.visible_score is None:
            return entity
        visible = self.is_visible(entity.visible_score) and bool(entity.boxes or entity.masks or entity.visible)
        return replace(entity, visible=visible, visible_score=self.probability(entity.visible_score))


def calibrate(
    samples: Sequence[Sample], predictions: Sequence[Prediction], iou: float = 0.5
) -> tuple[Calibration, dict]:
    """Temperature and threshold fitted on dev, and what they change there.

    The second is ``{"posts", "entities", "ece": [before, after], "gmner_f1": [before, after]}``. Where the
    temperature does not lower the calibration error it is 1; where no threshold is better than the decisions as they
    are it is 0.5. Raises UserError when no entity has a score to fit on, or when
    all of them are visible, or none is.
    """
    scores, visible = scores_of(samples, predictions)
    if len(set(visible.tolist())) < 2:
        raise UserError(
            f"calibration: needs visible and invisible entities that are named correctly and have a visible_score, "
            f"but found {int(visible.sum())} visible of {len(visible)}; is the split large enough, and does it say "
            "what is visible?"
        )
    warm = Calibration(fit_temperature(scores, visible))
    if _ece(samples, predictions, warm) >= _ece(samples, predictions, Calibration()):
        warm = Calibration()
    fitted = replace(warm, threshold=best_threshold(samples, [_scored(p, warm) for p in predictions], iou))
    after = [fitted.apply(prediction) for prediction in predictions]
    if _gmner_f1(samples, after, iou) < _gmner_f1(samples, predictions, iou):
        fitted, after = warm, [warm.apply(prediction) for prediction in predictions]
    return fitted, {
        "posts": len(samples),
        "entities": len(scores),
        "ece": [reliability(samples, some)["ece"] for some in (predictions, after)],
        "gmner_f1": [_gmner_f1(samples, some, iou) for some in (predictions, after)],
    }


def reliability(samples: Sequence[Sample], predictions: Sequence[Prediction], bins: int = 10) -> dict:
    """The reliability curve of ``visible_score`` and its calibration error.

    ``{"bins": [{"low", "high", "count", "score", "visible"}], "ece", "brier", "total", "without_score"}``: per bin of
    equal width the mean score and the share that is visible, both 0 where it is empty; ``ece`` is their difference
    weighted by count, ``brier`` the mean squared error.
    """
    scores, visible = scores_of(samples, predictions)
    places = np.minimum((scores * bins).astype(int), bins - 1)
    rows = []
    for place in range(bins):
        inside = places == place
        count = int(inside.sum())
        rows.append(
            {
                "low": place / bins,
                "high": (place + 1) / bins,
                "count": count,
                "score": share(float(scores[inside].sum()), count),
                "visible": share(float(visible[inside].sum()), count),
            }
        )
    total = len(scores)
    return {
        "bins": rows,
        "ece": share(sum(row["count"] * abs(row["score"] - row["visible"]) for row in rows), total),
        "brier": share(float(((scores - visible) ** 2).sum()), total),
        "total": total,
        "without_score": sum(
            _is_judged(pair) and pair.predicted.visible_score is None for pair in find(samples, predictions)
        ),
    }


def scores_of(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """The scores (n,) of entities named correctly and, (n,) of 0 and 1, whether the gold has them visible."""
    pairs = [
        (pair.predicted.visible_score, is_visible(pair.gold))
        for pair in find(samples, predictions)
        if _is_judged(pair) and pair.predicted.visible_score is not None
    ]
    scores, visible = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(scores, float), np.array(visible, float)


def fit_temperature(scores: np.ndarray, visible: np.ndarray) -> float:
    """The temperature in [0.05, 20] that makes the gold decisions ``visible`` (n,) most likely, given scores (n,)."""
    from scipy.optimize import minimize_scalar  # here, since scores alone do not need it, and it takes long to load

    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    logits = np.log(clipped / (1 - clipped))

    # Over the logarithm, in which halving and doubling are steps of the same size.
    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - visible * scaled))

    # Bounded, since of decisions that are all right the likeliest temperature is 0.
    return math.exp(minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded").x)


def best_threshold(samples: Sequence[Sample], predictions: Sequence[Prediction], iou: float = 0.5) -> float:
    """The threshold on ``visible_score`` that maximises GMNER F1 (strict); of equals the one nearest to 0.5.

    Thresholds lie between neighbouring scores. Entities are paired with gold ones by mention and type alone.
    """
    rows = []
    for post in join(samples, predictions):
        gold_entities = post.sample.entities
        for index, place in align(gold_entities, post.predicted) if gold_entities and post.predicted else ():
            entity = post.predicted[place]
            if entity.visible_score is not None:
                # Without a box it is not made visible. A row has what deciding for visible gains over invisible.
                shown = replace(entity, visible=True if entity.boxes else entity.visible)
                seen = bool(STRICT.correct((gold_entities[index],), (shown,), GMNER, iou))
                rows.append((entity.visible_score, seen - (not boxes_of(gold_entities[index]))))
    if not rows:
        return 0.5
    scores, gains = np.array(sorted(rows), float).T
    values, starts = np.unique(scores, return_index=True)
    won = np.append(np.add.reduceat(gains, starts)[::-1].cumsum()[::-1], 0)  # where visible from this value on
    thresholds = np.concatenate(([0.0], (values[:-1] + values[1:]) / 2, [1.0]))
    thresholds[np.searchsorted(values, 0.5)] = 0.5  # between the same two scores, and the default
    best = thresholds[won == won.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def check_free(folder: Path) -> Path:
    """The file that `write_calibration` would write. Raises UserError where the folder is missing or has a calibration
    already: predictions that were made with it are calibrated."""
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the trained adapter's")
    if path.exists():
        raise UserError(
            f"{path} is there already, and predictions made with it are calibrated; to fit it again delete it and "
            "predict dev again"
        )
    return path


def write_calibration(folder: Path, calibration: Calibration, figures: dict) -> Path:
    """Writes `FILE_NAME` into the folder of a run or an adapter, atomically. Raises as `check_free`."""
    path = check_free(folder)
    write_json(path, {"version": VERSION, **asdict(calibration), "fitted_on": figures})
    return path


def read_calibration(folder: Path) -> Calibration | None:
    """What `write_calibration` left in the folder, None where there is none. Raises UserError for a broken file."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        raw = read_object(path, "fit it again with `rivegs calibrate`")
        if type(raw["version"]) is not int or raw["version"] != VERSION:
            raise UserError(f"{path}: version {raw['version']!r:.80}; this release reads version {VERSION}")
        temperature, threshold = (_number(raw[name]) for name in ("temperature", "threshold"))
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: no calibration ({error!r:.200}); fit it again with `rivegs calibrate`") from None
    if not (math.isfinite(temperature) and temperature > 0 and 0 <= threshold <= 1):
        raise UserError(f"{path}: temperature {temperature} and threshold {threshold} make no sense; fit them again")
    return Calibration(temperature, threshold)


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.80} is no number")
    return float(value)


def _is_judged(pair: GoldMatch) -> bool:
    return pair.predicted is not None and (pair.gold.visible is not None or bool(pair.gold.boxes))


def _scored(prediction: Prediction, calibration: Calibration) -> Prediction:
    """The prediction with calibrated scores and its own decisions."""
    return replace(
        prediction,
        entities=tuple(
            replace(entity, visible_score=calibration.probability(entity.visible_score))
            if entity.visible_score is not None
            else entity
            for entity in prediction.entities
        ),
    )


def _ece(samples: Sequence[Sample], predictions: Sequence[Prediction], calibration: Calibration) -> float:
    return reliability(samples, [_scored(prediction, calibration) for prediction in predictions])["ece"]


def _gmner_f1(samples: Sequence[Sample], predictions: Sequence[Prediction], iou: float) -> float:
    posts = join(samples, predictions)
    correct = sum(len(STRICT.correct(post.sample.entities, post.predicted, GMNER, iou)) for post in posts)
    return share(2 * correct, sum(len(post.predicted) + len(post.sample.entities) for post in posts))
