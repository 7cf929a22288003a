"""Where users' histories are kept: one protocol, and Redis behind it."""
