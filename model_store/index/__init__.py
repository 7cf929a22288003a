"""Vector indexes over item embeddings: one protocol, FAISS behind it.

Results are ``item_index`` (rows counted from 1), scores are cosines.
"""

from model_store.index.build import build_index, load_index, save_index
from model_store.index.protocol import BuiltIndex, VectorIndex
from model_store.index.recall import measure_recall
from model_store.index.vectors import check_vectors, normalize

__all__ = [
    "BuiltIndex",
    "VectorIndex",
    "build_index",
    "check_vectors",
    "load_index",
    "measure_recall",
    "normalize",
    "save_index",
]
