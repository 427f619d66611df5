"""The entailment slot: whether the picture shows an entity."""
