"""Grounded multimodal named entity recognition, end to end or as a cascade."""
