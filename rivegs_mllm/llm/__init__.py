"""Language models as teachers: clients, few-shot examples in a prompt, checks of answers."""
