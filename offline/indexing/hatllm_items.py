"""What a bundle keeps of the items of a HatLLM: the IN band runs once, for the states and the embeddings alike."""

from collections.abc import Callable

import numpy as np
import torch

from model_store.hatllm.network import HatLLM
from model_store.hatllm.titles.trie import TitleTrie
from offline.indexing.embed_items import embed_catalogue
from offline.indexing.item_shards import only_one_in
from offline.indexing.item_states import StatedCatalogue, compute_states
from offline.indexing.known_items import known_embeddings, known_states
from offline.indexing.prepare_items import ItemWork, PreparedItems, embed_items


def prepare_hatllm_items(work: ItemWork) -> PreparedItems:
    """Tokenises the items once, computes their states, and embeds them from those, or by the HLLM item tower.

    Raises:
        InvalidInput: The model writes titles, and two of them cannot be told apart; or another process prepares the
            same items.
    """
    model = work.model
    assert isinstance(model, HatLLM)
    directory = work.states_directory
    with only_one_in(directory):
        known = known_states(work.store, work.manifest.weights_hash)
        stated = compute_states(model, work.catalogue, directory=directory, options=work.options, known=known)
        if "generate" in model.config.modes:
            # refuses titles that the service could not tell apart, here and not there
            TitleTrie.from_tokens(stated.tokens.token_ids, stated.tokens.offsets, work.catalogue.popularity)
        if model.item_tower is not None:
            return PreparedItems(embed_items(work).embedded, stated)
        return _embed_stated(work, model, stated)


def _embed_stated(work: ItemWork, model: HatLLM, stated: StatedCatalogue) -> PreparedItems:
    embedded = embed_catalogue(
        model,
        work.catalogue,
        directory=work.embeddings_directory,
        options=work.options,
        known=known_embeddings(work.store, work.manifest.item_tower_hash, kind=model.config.kind),
        tokens=stated.tokens,
        encode_text=_state_reader(model, stated, work.options.device),
    )
    return PreparedItems(embedded, stated)


def _state_reader(model: HatLLM, stated: StatedCatalogue, device: str) -> Callable[[np.ndarray], torch.Tensor] | None:
    """Catalogue rows (n,) to the text's part (n, D) of their embeddings, from states; None where there are none."""
    states, tokens = stated.states, stated.tokens
    if states is None:
        return None

    def encode(rows: np.ndarray) -> torch.Tensor:
        batch = model.item_tokenizer.collate(tokens.of_rows(rows)).to(device)
        places = tokens.offsets[rows][:, None] + np.arange(batch.input_ids.shape[1])
        # behind an item lies the next one, or nothing: padding may hold any state
        padded = states[torch.from_numpy(np.minimum(places, len(states) - 1))]
        return model.encode_item_tokens(batch, padded.to(device))

    return encode
