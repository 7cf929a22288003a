"""A linear joint that starts as the whitening of text embeddings: a few directions dominate raw ones."""

import torch

from model_store.errors import InvalidInput


def whitening_joint(
    embeddings: torch.Tensor, dim: int, power: float, *, rms: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A joint that starts as the PCA whitening of text embeddings.

    Args:
        embeddings: (N, H) raw text embeddings (before the joint) of the catalogue.
        dim: D <= H, how many principal directions to keep.
        power: 0 keeps their spread (plain PCA), 1 makes all equally wide (full whitening), between: between.
        rms: Root mean square of the result's components over these embeddings, whatever the power.

    Returns:
        Weight (D, H) and bias (D,) float32 of a linear layer. Directions without variation get zeros.

    Raises:
        InvalidInput: ``dim`` exceeds H, or there are fewer than two embeddings.
    """
    count, width = embeddings.shape
    if dim > width or count < 2:
        raise InvalidInput(f"whitening {count} embeddings of width {width} to {dim}: too few, or too narrow")
    mean = embeddings.double().mean(dim=0)
    centred = embeddings.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / count)
    variances, directions = variances.flip(0)[:dim], directions.flip(1)[:, :dim]
    # the sign of an eigenvector is the library's whim; fix it, so that a rerun gives the same model
    strongest = directions.abs().argmax(dim=0)
    directions = directions * directions[strongest, torch.arange(dim)].sign()
    varies = variances > variances[0].clamp(min=1e-30) * 1e-9
    factors = torch.where(varies, variances.clamp(min=1e-30).pow(-power / 2), 0.0)
    result_variance = (variances * factors.square()).mean().clamp(min=1e-30)
    weight = (directions * factors).T * (rms / result_variance.sqrt())
    return weight.float(), -(weight @ mean).float()
