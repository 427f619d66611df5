"""RiVEG's pipeline in slots that are filled one after the other (docs/cascade.md). To be read in this order:

``stage`` the contract; ``run`` the recipe and its run; ``steps`` the runner; then a file a slot, each with the slot's
contract on top and its small stages: ``knowledge``, ``tagging``, ``expansion``, ``entailment``, ``grounding``,
``segmentation``. Stages with a model have files of their own beside these: ``crf``, ``entailment_classifier``,
``grounding_zero_shot``, ``segmentation_sam`` and so on, and ``mllm`` stands in all slots but the last. ``training`` is
how stages are trained, ``saved`` what a trained one lies in.
"""
