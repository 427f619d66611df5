"""RiVEG's pipeline in slots that are filled one after the other (docs/cascade.md). To be read in this order:

``base``, the contract of a stage; ``config``, the recipe of a cascade; ``runner``, which runs its stages; then a folder
a slot: ``tagging``, ``knowledge`` (and expressions), ``entailment``, ``grounding``, ``segmentation``. In each, ``base``
has the slot's contract, its oracle and its baselines; every other stage is a file of its own. ``mllm`` is the
end-to-end model as a stage of any slot but the last, ``training`` trains a stage, and ``checkpoint`` is the folder of a
trained one.
"""
