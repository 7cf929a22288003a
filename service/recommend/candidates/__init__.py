"""Which items may be returned: filters, exclusions, caps, segments."""
