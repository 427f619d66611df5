"""What all HTML pages have in common: the template's environment, style, colours of types, terms explained, labels."""
