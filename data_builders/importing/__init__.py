"""Annotations of other tools as a dataset: a reader a format, and one way from what they read to samples."""
