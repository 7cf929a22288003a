"""Readers of source formats, one module a format; each makes a ``rows.Source``."""
