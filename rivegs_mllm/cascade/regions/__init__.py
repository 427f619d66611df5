"""Regions of pictures, proposed without knowing what is looked for."""
