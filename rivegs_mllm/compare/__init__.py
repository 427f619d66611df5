"""Systems compared: run on the same posts, in one table."""
