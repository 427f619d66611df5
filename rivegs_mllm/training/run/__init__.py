"""A run: its folder, what it was made with, and how it is stopped."""
