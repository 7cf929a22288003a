"""Ranking the whole catalogue for held-out interactions, and what that comes to."""
