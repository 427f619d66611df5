"""SeqTR (arXiv 2203.16265): boxes and masks written as a sequence of coordinates, from a picture and an expression."""
