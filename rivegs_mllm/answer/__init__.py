"""The prompt, and the answer to it: its segments, its box tokens and the format of both."""
