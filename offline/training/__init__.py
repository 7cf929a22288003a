"""Training on top of transformers' Trainer: losses, tasks, batches, callbacks, checkpoints."""
