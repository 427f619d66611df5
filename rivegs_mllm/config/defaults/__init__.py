"""What a recipe that does not say has: by its dataset, or by its trained model."""
