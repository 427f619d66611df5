"""The slots of knowledge and of expressions."""
