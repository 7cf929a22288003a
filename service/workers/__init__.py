"""Several processes that serve one port: the parent, the workers, and what they say to each other."""
