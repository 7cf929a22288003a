"""Columns of a catalogue as plain values: one piece, no dictionary, and of lists their elements."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def list_elements(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The values of a column, those of lists one by one.

    Args:
        column: (N,) of any type; nulls, empty lists and dictionary encoding are fine.

    Returns:
        (M,) values, nulls among them, and (M,) int64 the row of each, ascending. M is N unless the column holds lists.
    """
    values = _decoded(pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type))
    if not is_list(values.type):
        return values, np.arange(len(values))
    # not Arrow's parent indices: they count what lies hidden behind a null, which flattening leaves out
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    return _decoded(pc.list_flatten(values)), np.repeat(np.arange(len(values)), lengths)


def element_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values that ``list_elements`` gives of a column of this type."""
    kind = _plain(kind)
    return _plain(kind.value_type) if is_list(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
