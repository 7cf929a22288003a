"""What the service is compared with: apps and processes that do less, and a peer."""
