from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from model_store.artifacts.mapped_tensors import map_tensors
from model_store.errors import ArtifactCorrupt


def test_tensors_are_views_of_the_file_and_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"before": np.ones(5, dtype=np.int8), "wanted": wanted, "wide": wanted.astype(np.float64)}, path)

    mapped, wide = map_tensors(path, ["wanted", "wide"])
    np.testing.assert_array_equal(mapped.numpy(), wanted)
    np.testing.assert_array_equal(wide.numpy(), wanted)
    assert str(path) in Path("/proc/self/maps").read_text()
    with pytest.raises(ArtifactCorrupt, match="missing"):
        map_tensors(path, ["missing"])
    # another file, so that what is mapped stays what it is
    for content in (path.read_bytes()[:-60], b"\xff" * 20, b""):
        damaged = tmp_path / "damaged.safetensors"
        damaged.write_bytes(content)
        with pytest.raises(ArtifactCorrupt, match=r"damaged\.safetensors"):
            map_tensors(damaged, ["wanted"])
        damaged.unlink()
