"""Boxes and masks as other tools write them: what they mean, whose picture and which mention they belong to."""
