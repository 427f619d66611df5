"""The formats' names and what each is, without anything that takes time to import."""

WORDS = {
    "coco": "COCO's JSON: boxes, polygons, run-length masks",
    "label-studio": "Label Studio's JSON or JSON-MIN",
    "csv": "a table with a header, comma, semicolon or tab",
    "parquet": "the same in Parquet",
    "json": "the same as JSON lines or a list; also this project's own lines",
    "conll": "a token and its tag a line, with a tab, blanks, comma, semicolon or bar; any types",
    "spacy": "texts and spans of characters, as spaCy and Prodigy have them",
    "doccano": "the same as Doccano exports them",
    "brat": "a folder of .txt and .ann files",
    "gliner": "GLiNER's JSON of tokens and spans",
    "sharegpt": "conversations, as LLaMA-Factory and ms-swift have them",
    "datasets": "Hugging Face datasets: a saved folder, data files, a hub id",
    "labelme": "labelme's JSON, a file a picture",
    "cvat": "CVAT's XML for images",
    "fiftyone": "FiftyOne's detections",
}
