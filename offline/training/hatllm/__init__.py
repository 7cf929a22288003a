"""Training of a HatLLM."""
