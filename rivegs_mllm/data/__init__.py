"""Records and pictures, read, checked and written."""
