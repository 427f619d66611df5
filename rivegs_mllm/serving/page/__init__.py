"""The page to try a system, with examples."""
