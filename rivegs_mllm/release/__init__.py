"""A trained model that leaves the project: merged into its base, described by a card, uploaded to a hub."""
