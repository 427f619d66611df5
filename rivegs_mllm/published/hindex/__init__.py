"""H-Index (ACL 2023, 2023.acl-long.508): names, types and regions written as indices by a BART that sees regions."""
