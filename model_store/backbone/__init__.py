"""The language models underneath: loading, adapters, layers, attention."""
