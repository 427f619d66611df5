"""Language models that are asked: clients, examples in a prompt, checks of answers."""
