"""Recipes read: YAML, bases and overrides laid over each other, and the command line."""
