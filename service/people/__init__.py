"""All that is kept of a user or session, and how they are forgotten."""
