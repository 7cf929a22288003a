"""Parts of ``python -m benchmarks.serve``: servers as processes, loads, floors, the report."""
