"""What every request passes before and after its route: connections, hosts, keys, limits, problems."""
