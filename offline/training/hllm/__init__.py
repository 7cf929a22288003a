"""Training of an HLLM."""
