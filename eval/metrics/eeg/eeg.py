"""EEG as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/eeg")."""

import evaluate

from eval.metrics.common import INPUTS, OUTPUTS, complete, compute, features

_DESCRIPTION = """\
Precision, recall and F1 of entity extraction and grounding (EEG): an entity is correct when the mention and
its box, whatever the type agree with the gold. A gold entity without a box is found when no box is predicted
for it, any other one when the predicted box agrees with one of its own by more than the IoU threshold.
"""

_CITATION = """\
Yu, J. et al. Grounded Multimodal Named Entity Recognition on Social Media. ACL 2023.
"""

_EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/eeg")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC", "boxes": [[0, 0, 10, 10]]}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""


class Eeg(evaluate.Metric):
    """EEG; see `eval.metrics.common`."""

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
        return compute("EEG", predictions, references, protocol, iou)
