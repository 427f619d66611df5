"""SMNER as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/smner")."""

import evaluate

from eval.metrics.common import INPUTS, OUTPUTS, complete, compute, features

_DESCRIPTION = """\
Precision, recall and F1 of segmented multimodal named entity recognition (SMNER): an entity is correct when
the mention, its type and its mask agree with the gold. A gold entity without a mask is found when no mask is
predicted for it, any other one when the predicted mask agrees with one of its own by more than the IoU
threshold.
"""

_CITATION = """\
Li, J. et al. LLMs as Bridges: Reformulating Grounded Multimodal Named Entity Recognition. Findings of ACL
2024, and its extension to masks.
"""

_EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/smner")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC", "masks": [{"size": [4, 4], "counts": "02208"}]}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""


class Smner(evaluate.Metric):
    """SMNER; see `eval.metrics.common`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=INPUTS + OUTPUTS + _EXAMPLE,
            features=features(),
        )

    def add_batch(self, *, predictions=None, references=None):
        """Adds posts; fields of theirs that are left out are not known."""
        super().add_batch(predictions=complete(predictions), references=complete(references))

    def add(self, *, prediction=None, reference=None):
        """Adds a post."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(self, predictions, references, protocol="strict", iou=0.5):
        return compute("SMNER", predictions, references, protocol, iou)
