"""The console: one page at ``/`` that shows what the HTTP API does. It is a client of it like any other."""
