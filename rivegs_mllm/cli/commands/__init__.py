"""The commands by what they are for: the options of each, and the function that it calls."""
