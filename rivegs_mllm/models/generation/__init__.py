"""Answers of the end-to-end model: complete ones, or the continuation of a given prefix."""
