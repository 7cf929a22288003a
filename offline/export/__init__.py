"""The event log as files: each event exactly once."""
