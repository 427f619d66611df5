"""The embedded default: a small Qwen2.5-VL that runs on a laptop, and how it is made."""
