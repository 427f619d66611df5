"""The formats' names and what each is, without anything that takes time to import."""

WORDS = {
    "coco": "COCO's JSON: boxes, polygons, run-length masks",
    "label-studio": "Label Studio's JSON or JSON-MIN",
    "csv": "a table with a header, comma, semicolon or tab",
    "parquet": "the same in Parquet",
    "conll": "a token and its tag a line",
}
