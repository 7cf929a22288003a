"""HTTP, thin: a route turns a request into a query, and an answer into JSON."""
