"""Putting trained models together: what a blend is made of, and how much each of its heads weighs."""
