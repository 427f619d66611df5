"""Rows with columns: CSV, Parquet, JSON lines and Hugging Face datasets."""
