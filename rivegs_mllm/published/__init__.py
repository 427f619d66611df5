"""The models that RiVEG's numbers come from, rebuilt; each folder knows nothing of the cascade."""
