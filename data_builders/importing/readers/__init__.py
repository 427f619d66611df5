"""A file a format. A reader turns a file into posts of ``importing.records`` and knows nothing of samples."""
