"""Emblems: a generated benchmark for grounded multimodal NER.

Names are invented, and each has a look that a plain expression describes by parts, so that an unseen name can be
found in a picture through its expression alone.
"""
