"""What is made of a catalogue's items by each kind of model of ``model_store/kinds.py``."""

from collections.abc import Callable

from offline.indexing.hatllm_items import prepare_hatllm_items
from offline.indexing.prepare_items import ItemWork, PreparedItems, embed_blend, embed_items

PREPARE_ITEMS: dict[str, Callable[[ItemWork], PreparedItems]] = {
    "hllm": embed_items,
    "hatllm": prepare_hatllm_items,
    "blend": embed_blend,
}
