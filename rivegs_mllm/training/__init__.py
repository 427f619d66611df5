"""Training of the end-to-end model: batches, loss, runs' folders, memory."""
