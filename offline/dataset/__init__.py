"""Catalogues and interaction logs: read from any format, checked, written, split."""
