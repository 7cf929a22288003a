"""Batch jobs: import data, train, evaluate, reindex. Each is ``python -m offline.<job>``."""
