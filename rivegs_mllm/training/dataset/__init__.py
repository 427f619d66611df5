"""From labelled samples to the rows and batches of an epoch."""
