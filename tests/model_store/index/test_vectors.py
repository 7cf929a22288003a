import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_store.index import normalize

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=FLOATS))
def test_every_vector_has_norm_one_however_tiny_or_huge_or_is_zero(vectors: np.ndarray) -> None:
    norms = np.linalg.norm(normalize(vectors), axis=1)

    np.testing.assert_allclose(norms, vectors.any(axis=1), atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
def test_the_last_axis_is_the_vector(shape: tuple[int, ...]) -> None:
    vectors = np.broadcast_to(np.array([3.0, 0.0, 4.0], dtype=np.float32), shape)

    np.testing.assert_allclose(normalize(vectors), np.broadcast_to([0.6, 0.0, 0.8], shape), rtol=1e-6)


def test_what_is_not_a_number_stays_so() -> None:
    assert np.isnan(normalize(np.array([1.0, np.nan], dtype=np.float32))).all()


def test_no_vectors_are_no_vectors() -> None:
    assert normalize(np.empty((0, 4))).shape == (0, 4)
