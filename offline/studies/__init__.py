"""Ablations and attention: measurements beyond one model's quality."""
