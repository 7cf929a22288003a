"""The only place of the batch jobs that talks to Redis: the event log, and histories that are loaded."""
