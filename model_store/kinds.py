"""The one table of kinds of model; ``config.json`` of a model directory names the kind.

The service and the batch jobs both come through here, so that what was measured is what is served. What batch jobs add
for each kind is in ``offline/training/kinds.py``.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from model_store.backbone.model_files import read_settings
from model_store.blend import files as blend_files
from model_store.blend.user_encoder import BlendUserEncoder
from model_store.encoding import EncodedItems, Generator, ItemModel, Mode, UserEncoder
from model_store.hatllm import files as hatllm_files
from model_store.hatllm.titles.generator import DEFAULT_BEAMS
from model_store.hatllm.titles.generator import make_generator as make_title_generator
from model_store.hatllm.user_encoder import HatLLMUserEncoder
from model_store.hllm import files as hllm_files
from model_store.hllm.user_encoder import HLLMUserEncoder

ALL_PARTS = frozenset({"item", "user"})
DEFAULT_STATE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Kind:
    """What a kind of model can do.

    Attributes:
        load: Model directory, device, dtype and parts to a model.
        item_tower_hash: Model directory to the hash of what item embeddings depend on.
        trained_modes: Model directory to the ways to recommend that the model was trained for.
        make_user_encoder: Bundle, device, dtype and memory for kept states to the encoder of its model.
        make_generator: Bundle, encoder and number of beams to what writes titles, or to None.
    """

    load: Callable[..., ItemModel]
    item_tower_hash: Callable[[Path], str]
    trained_modes: Callable[[Path], tuple[Mode, ...]]
    make_user_encoder: Callable[..., UserEncoder]
    make_generator: Callable[..., Generator | None]


KINDS: dict[str, Kind] = {
    "hllm": Kind(
        load=hllm_files.load_hllm,
        item_tower_hash=hllm_files.item_tower_hash,
        trained_modes=lambda _: ("retrieve",),
        make_user_encoder=lambda bundle, device, dtype, **_: HLLMUserEncoder(bundle, device, dtype),
        make_generator=lambda *_, **__: None,
    ),
    "hatllm": Kind(
        load=hatllm_files.load_hatllm,
        item_tower_hash=hatllm_files.item_tower_hash,
        trained_modes=lambda directory: hatllm_files.read_config(directory).modes,
        make_user_encoder=HatLLMUserEncoder,
        make_generator=make_title_generator,
    ),
    "blend": Kind(
        load=blend_files.load_blend,
        item_tower_hash=blend_files.item_tower_hash,
        trained_modes=lambda _: ("retrieve",),
        make_user_encoder=lambda bundle, device, dtype, **_: BlendUserEncoder(bundle, device, dtype),
        make_generator=lambda *_, **__: None,
    ),
}


def read_kind(directory: Path) -> str:
    """The kind of model that a directory holds.

    Raises:
        ArtifactNotFound: There is no ``config.json``.
        ArtifactCorrupt: It is not JSON.
        ArtifactIncompatible: This release knows no such kind.
    """
    return str(read_settings(Path(directory), KINDS)["kind"])


def load_model(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ALL_PARTS,
) -> ItemModel:
    """Loads a model, in evaluation mode.

    Args:
        directory: Of the model.
        device: Where to put it.
        dtype: Of its weights.
        parts: ``item``, ``user`` or both; a side that is not asked for takes no memory.
    """
    return _kind(directory).load(Path(directory), device=device, dtype=dtype, parts=parts)


def item_tower_hash(directory: Path) -> str:
    """Names what the item embeddings of this model depend on; see the kind's own function."""
    return _kind(directory).item_tower_hash(Path(directory))


def trained_modes(directory: Path) -> tuple[Mode, ...]:
    """The ways to recommend that this model was trained for."""
    return _kind(directory).trained_modes(Path(directory))


def read_text_fields(directory: Path) -> tuple[str, ...]:
    """What this model reads of an item, in order; nothing where the model learned items by their ids."""
    settings = read_settings(Path(directory), KINDS)
    return () if settings.get("item_input") == "id" else tuple(settings["text_fields"])


def make_user_encoder(
    bundle: EncodedItems,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    state_bytes: int = DEFAULT_STATE_BYTES,
) -> UserEncoder:
    """The encoder of a bundle's model.

    Args:
        bundle: Open and verified; it must outlive the encoder.
        device: Where the forward passes run.
        dtype: Of the weights; the result is float32 in any case.
        state_bytes: Memory for what the encoder keeps of users, if its kind keeps anything.

    Raises:
        ArtifactIncompatible: This release knows no such kind of model.
    """
    return _kind(bundle.model_directory).make_user_encoder(bundle, torch.device(device), dtype, state_bytes=state_bytes)


def make_generator(bundle: EncodedItems, encoder: UserEncoder, *, num_beams: int = DEFAULT_BEAMS) -> Generator | None:
    """What writes the titles of a bundle's items; None if its model does not.

    Args:
        bundle: Open and verified; it must outlive the generator.
        encoder: Of the same bundle; it keeps the users' states.
        num_beams: Followed at least; more if more items are asked for.
    """
    return _kind(bundle.model_directory).make_generator(bundle, encoder, num_beams=num_beams)


def _kind(directory: Path) -> Kind:
    return KINDS[read_kind(directory)]
