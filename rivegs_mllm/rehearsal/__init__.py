"""A run of GPUs rehearsed without one: its real code on a small base, its data, and what it should cost."""
