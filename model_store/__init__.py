"""What a model is, and where its versions live. Imports neither ``service`` nor ``offline``."""
