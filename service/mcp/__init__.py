"""The Model Context Protocol: what agents may ask, as tools that ask the HTTP routes in process."""
