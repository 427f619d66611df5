"""The formats' names and what each holds, without anything that takes time to import."""

WORDS = {
    "coco": "COCO's JSON, and COCO's results of systems",
    "label-studio": "Label Studio's tasks; what systems say as pre-annotations",
    "csv": "a row a mention",
    "conll": "tokens and BIO tags",
    "sharegpt": "conversations for LLaMA-Factory and ms-swift, boxes in pixels",
    "datasets": "a Hugging Face DatasetDict, pictures in it",
    "fiftyone": "FiftyOne's detection folders, without a copy of the pictures",
    "riveg": "the rows of RiVEG's statistic",
}
