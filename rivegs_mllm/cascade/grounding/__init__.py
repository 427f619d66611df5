"""The grounder's slot: an expression's boxes."""
