"""UMT (ACL 2020, section 3): a tagger of text and picture, with a second one that finds names whatever their type."""
