"""Training of the single model: batches, loss, runs' folders, memory."""
