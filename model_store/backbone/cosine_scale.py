"""What cosines are multiplied by in the training loss: learned, kept as a logarithm, and bounded."""

import math

import torch

_INITIAL = math.log(1 / 0.07)
_MAX = math.log(100)


def initial_logit_scale() -> torch.nn.Parameter:
    """() float32, the logarithm that training begins with."""
    return torch.nn.Parameter(torch.tensor(_INITIAL))


def score_scale(logit_scale: torch.Tensor) -> torch.Tensor:
    """() float32: the factor itself, between 1 and 100."""
    return logit_scale.float().clamp(0.0, _MAX).exp()
