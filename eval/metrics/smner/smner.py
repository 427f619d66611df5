"""SMNER as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/smner")."""

from eval.metrics import common


class Smner(common.TaskMetric):
    """SMNER; see `eval.metrics.common`."""

    TASK = "SMNER"
    DESCRIPTION = """\
Precision, recall and F1 of segmented multimodal named entity recognition (SMNER): an entity is correct when
the mention, its type and its mask agree with the gold. A gold entity without a mask is found when no mask is
predicted for it, any other one when the predicted mask agrees with one of its own by more than the IoU
threshold.
"""
    CITATION = """\
Li, J. et al. LLMs as Bridges: Reformulating Grounded Multimodal Named Entity Recognition. Findings of ACL
2024, and its extension to masks.
"""
    EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/smner")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC", "masks": [{"size": [4, 4], "counts": "02208"}]}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""
