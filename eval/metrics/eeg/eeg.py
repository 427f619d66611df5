"""EEG as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/eeg")."""

from eval.metrics import common


class Eeg(common.TaskMetric):
    """EEG; see `eval.metrics.common`."""

    TASK = "EEG"
    DESCRIPTION = """\
Precision, recall and F1 of entity extraction and grounding (EEG): an entity is correct when the mention and
its box, whatever the type agree with the gold. A gold entity without a box is found when no box is predicted
for it, any other one when the predicted box agrees with one of its own by more than the IoU threshold.
"""
    CITATION = """\
Yu, J. et al. Grounded Multimodal Named Entity Recognition on Social Media. ACL 2023.
"""
    EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/eeg")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC", "boxes": [[0, 0, 10, 10]]}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""
