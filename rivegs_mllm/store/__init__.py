"""Answers of teachers, kept in a store and joined to samples."""
