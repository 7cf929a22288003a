"""From a user embedding to an ordered list: search, order, explain."""
