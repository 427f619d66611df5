"""Pretrained models: loaded, adapted, and generating answers."""
