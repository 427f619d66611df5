"""A loaded system behind HTTP: an API, and a page to try it."""
