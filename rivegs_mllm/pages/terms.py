"""The terms of the pages in plain words, shown where one points at a term, moves the focus to it or taps it."""

from __future__ import annotations

TERMS = {
    "MNER": "Multimodal named entity recognition: which words of the post are an entity, and of which type. Where it "
    "is in the picture does not count.",
    "GMNER": "Grounded MNER: mention and type must be right, and the box of the entity in the picture, or that it is "
    "not in the picture.",
    "EEG": "Entity extraction and grounding: as GMNER, but the type does not count.",
    "SMNER": "Segmented MNER: as GMNER, with a mask, the very pixels of the entity, in place of the box.",
    "EES": "Entity extraction and segmentation: as SMNER, but the type does not count.",
    "F1": "The harmonic mean of precision and recall, in percent: 100 where everything was found and nothing else was "
    "predicted.",
    "precision": "Of what was predicted, the share that is correct, in percent.",
    "recall": "Of what is in the gold annotation, the share that was found, in percent.",
    "gold": "What the annotators of the dataset say.",
    "correct": "How many predicted entities agree with a gold one in all that the task asks for.",
    "IoU": "Intersection over union: the area that two boxes (or masks) share, divided by the area that they cover "
    "together. 1 is the same region, 0 no overlap.",
    "mean box IoU": "The mean IoU of predicted and gold boxes, in percent; no box counts as 0. Of entities in the "
    "picture whose mention and type are right.",
    "mean mask IoU": "The mean IoU of predicted and gold masks, in percent; no mask counts as 0. Of entities in the "
    "picture whose mention and type are right.",
    "box IoU > 0.5": "The share of entities whose predicted box overlaps the gold one by an IoU above 0.5, in percent. "
    "Of entities in the picture whose mention and type are right.",
    "visibility": "How often it is decided rightly whether an entity is in the picture, in percent. Of entities whose "
    "mention and type are right.",
    "mention": "The words of the post that name an entity.",
    "span F1": "F1 of the mentions alone: neither type nor picture counts.",
    "grounded": "Of all entities in the picture, the share whose mention, type, visibility and box are right, in "
    "percent.",
    "strict": "An entity counts only where its mention is right to the word, its type is right, and its region "
    "overlaps the gold one by an IoU above 0.5.",
    "95 % interval": "Where the figure would lie in 95 of 100 test sets of this size, drawn from these posts again "
    "and again.",
    "p": "How often a difference of at least this size would come by the choice of posts alone, were the systems "
    "equally good. Below 0.05 a difference is taken as shown.",
    "gain": "By how many points F1 would rise if only this were corrected.",
    "gold stage": "One stage of the system replaced by the gold annotation: what an errorless stage would bring.",
    "estimated": "How many of these entities needed a guess: what the system would have said of them cannot be known.",
    "probability": "How sure the system is that an entity is in the picture.",
    "ECE": "Expected calibration error: how far predicted probabilities are from the share that is truly visible, on "
    "average, in percent. 0 is best.",
    "Brier": "The mean squared error of the predicted probabilities. 0 is best; always saying one half gives 0.25.",
    "costs": "By how many points F1 would rise if this post alone were answered as in the gold.",
    "parameters": "The size of all models of the system, in millions of weights. A model that several stages share "
    "counts once.",
    "seconds per post": "Seconds per post, without loading the models.",
    "peak memory": "The most memory in use at once: of the GPU, or of the process where there is none.",
    "expander": "The stage that writes an expression, such as 'a woman in blue', for each entity.",
    "knowledge": "The stage that adds what is known of the names in a post.",
    "tagger": "The stage that finds mentions and their types.",
    "entailment": "The stage that decides whether an entity is in the picture.",
    "grounder": "The stage that draws the box of an entity.",
    "segmenter": "The stage that turns a box into a mask.",
    "answer": "An end-to-end model: one answer holds all fields.",
}
