"""Recommending by writing titles under the catalogue's trie."""
