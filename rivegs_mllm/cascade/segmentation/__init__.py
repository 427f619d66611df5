"""The segmenter's slot: from a box to a mask."""
