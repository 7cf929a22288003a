"""Tensors of a safetensors file as views of the mapped file, whose pages all processes share."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from model_store.errors import ArtifactCorrupt


def map_tensors(path: Path, names: Sequence[str]) -> list[torch.Tensor]:
    """Maps tensors of a file; whoever writes to one has a page of their own from then on.

    Raises:
        ArtifactCorrupt: The file is not safetensors, or has no such tensor.
    """
    try:
        # through torch: for numpy, the library copies
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise ArtifactCorrupt(f"{path} has no tensors {', '.join(names)} that can be mapped: {error}") from error
