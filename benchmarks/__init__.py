"""Measurements against a floor or a peer in the same run. Each is ``python -m benchmarks.<name>``."""
