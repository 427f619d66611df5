"""GMNER as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/gmner")."""

import evaluate

from eval.metrics.common import INPUTS, OUTPUTS, complete, compute, features

_DESCRIPTION = """\
Precision, recall and F1 of grounded multimodal named entity recognition (GMNER): an entity is correct when
the mention, its type and its box agree with the gold. A gold entity without a box is found when no box is
predicted for it, any other one when the predicted box agrees with one of its own by more than the IoU
threshold.
"""

_CITATION = """\
Yu, J. et al. Grounded Multimodal Named Entity Recognition on Social Media. ACL 2023.
"""

_EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/gmner")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC", "boxes": [[0, 0, 10, 10]]}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""


class Gmner(evaluate.Metric):
    """GMNER; see `eval.metrics.common`."""

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
        return compute("GMNER", predictions, references, protocol, iou)
