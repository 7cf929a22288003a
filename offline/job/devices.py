"""Where a job runs its models."""

import torch


def chosen_device(name: str) -> str:
    """``auto`` is the accelerator if there is one; any other name is itself."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
