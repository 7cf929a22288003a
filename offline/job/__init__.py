"""What all batch jobs share: one-line errors, progress, devices, models by name."""
