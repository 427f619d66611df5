"""Commands that use a trained system, a module each."""
