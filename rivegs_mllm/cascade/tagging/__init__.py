"""The tagger's slot: entities in a text."""
