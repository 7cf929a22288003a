"""The online service: one request in, k items out."""
