"""The demo shop: a generated catalogue and click log."""
