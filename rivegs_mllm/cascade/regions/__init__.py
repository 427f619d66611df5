"""Class-agnostic region proposals."""
