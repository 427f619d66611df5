"""Predictions of the end-to-end model for many posts: in batches by tokens, by one process or several, resumable."""
