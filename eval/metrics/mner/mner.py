"""MNER as a Hugging Face `evaluate` module: evaluate.load("eval/metrics/mner")."""

from eval.metrics import common


class Mner(common.TaskMetric):
    """MNER; see `eval.metrics.common`."""

    TASK = "MNER"
    DESCRIPTION = """\
Precision, recall and F1 of multimodal named entity recognition (MNER): an entity is correct when the mention
and its type agree with the gold.
"""
    CITATION = """\
Yu, J. et al. Improving Multimodal Named Entity Recognition via Entity Span Detection with Unified Multimodal
Transformer. ACL 2020.
"""
    EXAMPLE = """
Examples:
    >>> import evaluate
    >>> metric = evaluate.load("eval/metrics/mner")
    >>> post = {"entities": [{"text": "Rome", "type": "LOC"}]}
    >>> metric.compute(predictions=[post], references=[post])["f1"]
    1.0
"""
