"""The FAISS engine: any factory string, searched by inner product of unit vectors, which is the cosine.

FAISS knows items by row, counted from 0, and says -1 for "nothing"; adding one makes both an ``item_index``.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from model_store.errors import ArtifactCorrupt, ArtifactNotFound, InvalidInput
from model_store.index.vectors import blocks, check_vectors, normalize

# its stubs do not know the keyword arguments that its Python layer adds
faiss: Any = _faiss

# a filter that leaves no more than this is searched exhaustively: quick enough, and exact but for quantising
EXHAUSTIVE_ITEMS = 100_000
_TRAINING_ROWS = 65_536
_ROWS_PER_CELL = 64
_SEED = 1234
# A sum of squares of at least this lost no digits to underflow.
_SMALL = 1e-24


class FaissIndex:
    """A built FAISS index; see ``VectorIndex``.

    Args:
        index: Holds row ``item_index - 1`` for each item, metric inner product.
        factory: The string that it was built from.
        parameters: ``nprobe`` for IVF types, ``efSearch`` for HNSW types.
    """

    def __init__(self, index: Any, *, factory: str, parameters: Mapping[str, Any]) -> None:
        self._index = index
        self._factory = factory
        self._parameters = dict(parameters)
        # Read once: every search needs them, and each question to FAISS crosses into C++.
        self._num_items, self._embedding_dim = int(index.ntotal), int(index.d)
        self._effort_name = _effort_name(index)

    @property
    def num_items(self) -> int:
        """N."""
        return self._num_items

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self._embedding_dim

    @property
    def factory(self) -> str:
        """The factory string."""
        return self._factory

    @property
    def parameters(self) -> dict[str, Any]:
        """Search-time parameters."""
        return dict(self._parameters)

    @property
    def effort_name(self) -> str | None:
        """The parameter that trades speed for recall, ``nprobe`` or ``efSearch``; None if there is none."""
        return self._effort_name

    @property
    def largest_effort(self) -> int:
        """The value of that parameter at which the search leaves nothing out."""
        ivf = faiss.try_extract_index_ivf(self._index)
        return int(ivf.nlist) if ivf else self.num_items

    def with_effort(self, effort: int) -> "FaissIndex":
        """The same index, searched with another value of ``effort_name``."""
        if self.effort_name is None:
            raise InvalidInput(f"index {self._factory!r} has neither nprobe nor efSearch to set")
        return FaissIndex(self._index, factory=self._factory, parameters={self.effort_name: effort})

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``VectorIndex.search``."""
        queries = self._checked_queries(queries, k)
        is_allowed = None if allowed is None else self._mask(allowed)
        num_allowed = self.num_items if is_allowed is None else int(is_allowed.sum())
        wanted = min(k, num_allowed)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        indices = np.zeros((len(queries), k), dtype=np.int64)
        if wanted == 0 or len(queries) == 0:
            return scores, indices
        selector = None if is_allowed is None else _selector(is_allowed)
        with _one_thread() if len(queries) == 1 else contextlib.nullcontext():
            if selector is not None and num_allowed <= EXHAUSTIVE_ITEMS:
                top_scores, top_rows = self._exhaustive(queries, wanted, selector)
            else:
                top_scores, top_rows = self._approximate(queries, wanted, selector, num_allowed / self.num_items)
        np.minimum(np.maximum(top_scores, -1.0), 1.0, out=scores[:, :wanted])
        np.add(top_rows, 1, out=indices[:, :wanted])
        if indices[:, wanted - 1].min() == 0:  # FAISS gives what it did not find last
            scores[indices == 0] = -np.inf
        return scores, indices

    def save(self, path: Path) -> None:
        """Writes the index to ``path``, atomically."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            faiss.write_index(self._index, str(temporary))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _approximate(self, queries: np.ndarray, k: int, selector: Any, share: float) -> tuple[np.ndarray, np.ndarray]:
        effort = self._effort(k, share)
        scores, rows = self._index.search(queries, k, params=_parameters(self._index, effort, selector))
        # cells without enough items, or a graph cut apart by the filter: those queries look everywhere
        is_short = rows[:, -1] < 0
        if is_short.any():
            scores[is_short], rows[is_short] = self._exhaustive(queries[is_short], k, selector)
        return scores, rows

    def _exhaustive(self, queries: np.ndarray, k: int, selector: Any) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self._index, faiss.IndexHNSW):
            # its vectors lie in a plain index, which is scanned
            storage = faiss.downcast_index(self._index.storage)
            return storage.search(queries, k, params=_parameters(storage, None, selector))
        effort = self.largest_effort if self.effort_name else None
        return self._index.search(queries, k, params=_parameters(self._index, effort, selector))

    def _effort(self, k: int, share: float) -> int | None:
        """The tuned effort, raised by what a filter takes away and to what ``k`` needs."""
        if self.effort_name is None:
            return None
        effort = int(self._parameters[self.effort_name])
        if self.effort_name == "efSearch":
            effort = max(effort, k)
        return min(math.ceil(effort / share), self.largest_effort)

    def _checked_queries(self, queries: np.ndarray, k: int) -> np.ndarray:
        if k < 1:
            raise InvalidInput(f"k is {k}, expected at least 1")
        if queries.ndim != 2 or queries.shape[1] != self.embedding_dim:
            raise InvalidInput(f"queries have shape {queries.shape}, expected (B, {self.embedding_dim})")
        queries = np.asarray(queries, dtype=np.float32)
        if len(queries) == 0:
            return queries
        squares = np.vecdot(queries, queries)
        # Not a number is neither.
        if squares.min() > _SMALL and squares.max() < np.inf:
            unit: np.ndarray = queries / np.sqrt(squares)[:, None]
            return unit
        # Too long or too short for its square, or not a vector at all.
        check_vectors(queries)
        return normalize(queries)

    def _mask(self, allowed: np.ndarray) -> np.ndarray:
        allowed = np.asarray(allowed)
        if allowed.ndim != 1 or (len(allowed) and allowed.dtype.kind not in "iu"):
            raise InvalidInput(f"allowed has shape {allowed.shape} and dtype {allowed.dtype}, expected (any,) int64")
        mask = np.zeros(self.num_items + 1, dtype=bool)
        if len(allowed):
            lowest, highest = int(allowed.min()), int(allowed.max())
            if lowest < 0 or highest > self.num_items:
                raise InvalidInput(f"allowed spans {lowest}..{highest}, expected 0..{self.num_items}")
            mask[allowed] = True
        return mask[1:]


def build_faiss(vectors: np.ndarray, factory: str) -> FaissIndex:
    """Trains and fills an index.

    Args:
        vectors: (N, D) float32 that passed ``check_vectors``; not changed.
        factory: FAISS factory string, such as ``IVF256,SQ8``.

    Raises:
        InvalidInput: FAISS does not know the string, or cannot build it from these vectors.
    """
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        ivf = faiss.try_extract_index_ivf(index)
        if ivf:
            # small catalogues are fine with few items a cell; this only silences a warning
            ivf.cp.min_points_per_centroid = 1
        if not index.is_trained:
            index.train(_training_sample(vectors, num_cells=ivf.nlist if ivf else 0))
        _add(index, vectors)
    except RuntimeError as error:
        shape = f"{len(vectors)} vectors of width {vectors.shape[1]}"
        raise InvalidInput(f"index {factory!r} cannot be built over {shape}: {_reason(error)}") from error
    built = FaissIndex(index, factory=factory, parameters=_start_parameters(index))
    _check_filters(built, vectors)
    return built


def load_faiss(path: Path, *, factory: str, parameters: Mapping[str, Any]) -> FaissIndex:
    """Opens an index file, memory-mapped so that processes share its pages.

    Raises:
        ArtifactNotFound: There is no such file.
        ArtifactCorrupt: It is not a FAISS index.
    """
    if not path.is_file():
        raise ArtifactNotFound(f"{path} does not exist")
    try:
        # not IO_FLAG_MMAP, which copies flat indexes into memory
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ArtifactCorrupt(f"{path} is not a FAISS index: {_reason(error)}") from error
    return FaissIndex(index, factory=factory, parameters={**_start_parameters(index), **parameters})


def _add(index: Any, vectors: np.ndarray) -> None:
    if not isinstance(index, faiss.IndexFlatCodes):
        for part in blocks(len(vectors)):
            index.add(normalize(vectors[part]))
        return
    # one allocation of the right size: added block by block, all codes are moved to twice the room again and again
    size = len(vectors) * index.code_size
    index.codes.resize(size)
    codes = faiss.rev_swig_ptr(index.codes.data(), size).reshape(len(vectors), index.code_size)
    for part in blocks(len(vectors)):
        codes[part] = index.sa_encode(normalize(vectors[part]))
    index.ntotal = len(vectors)


def _training_sample(vectors: np.ndarray, *, num_cells: int) -> np.ndarray:
    size = max(_TRAINING_ROWS, _ROWS_PER_CELL * num_cells)
    if len(vectors) <= size:
        return normalize(vectors)
    rows = np.random.default_rng(_SEED).choice(len(vectors), size=size, replace=False)
    return normalize(vectors[np.sort(rows)])


def _check_filters(index: FaissIndex, vectors: np.ndarray) -> None:
    """Refuses types that cannot search with a filter, such as PQ without IVF; only a search tells."""
    try:
        index.search(vectors[:1], 1, allowed=np.array([1]))
    except RuntimeError as error:
        raise InvalidInput(f"index {index.factory!r} cannot search with a filter: {_reason(error)}") from error


def _selector(is_allowed: np.ndarray) -> Any:
    # a bitmap costs the same for every filter; the set-based selectors grow with it
    return faiss.IDSelectorBitmap(np.packbits(is_allowed, bitorder="little"))


def _inner(index: Any) -> Any:
    """The index that an outer one (a rotation, a refinement) passes the search to; None if there is none."""
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.downcast_index(index.index)
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.base_index)
    return None


def _effort_name(index: Any) -> str | None:
    inner = _inner(index)
    if inner is not None:
        return _effort_name(inner)
    if isinstance(index, faiss.IndexIVF):
        return "nprobe"
    return "efSearch" if isinstance(index, faiss.IndexHNSW) else None


def _start_parameters(index: Any) -> dict[str, int]:
    name = _effort_name(index)
    if name is None:
        return {}
    ivf = faiss.try_extract_index_ivf(index)
    return {name: min(8, int(ivf.nlist)) if ivf else 32}


def _parameters(index: Any, effort: int | None, selector: Any) -> Any:
    """Search parameters of the class that the index's type asks for; per call, so threads do not meet."""
    inner = _inner(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_parameters(inner, effort, selector))
    if isinstance(index, faiss.IndexRefine):
        base = _parameters(inner, effort, selector)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=base)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort, sel=selector)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
    return None if selector is None else faiss.SearchParameters(sel=selector)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Lets FAISS use one OpenMP thread, as far as calls of this thread go.

    For a single query one thread is faster: on two cores, 50,000 x 256, 1.7 ms against 5.3 ms with two.
    """
    before = faiss.omp_get_max_threads()
    if before == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _reason(error: RuntimeError) -> str:
    """What FAISS complains about, without the C++ signature and source line before it."""
    return re.sub(r"^Error in .* at \S+:\d+: (Error: )?", "", str(error).strip(), flags=re.DOTALL)
