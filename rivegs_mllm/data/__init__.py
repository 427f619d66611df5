"""Records, pictures and files, read and written."""
