"""MNER as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/mner")."""

import evaluate

from eval.metrics.common import INPUTS, OUTPUTS, complete, compute, features

_DESCRIPTION = """\
Precision, recall and F1 of multimodal named entity recognition (MNER): an entity is correct when the mention
and its type agree with the gold.
"""

_CITATION = """\
Yu, J. et al. Improving Multimodal Named Entity Recognition via Entity Span Detection with Unified Multimodal
Transformer. ACL 2020.
"""

_EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/mner")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC"}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""


class Mner(evaluate.Metric):
    """MNER; see `eval.metrics.common`."""

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
        return compute("MNER", predictions, references, protocol, iou)
