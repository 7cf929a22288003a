"""What a model directory's ``config.json`` says of a HatLLM."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from model_store.catalogue.item_segments import ITEM_ENDS, ItemEnd
from model_store.encoding import MODES, Mode
from model_store.errors import ArtifactIncompatible, InvalidInput
from model_store.hatllm.masks import BANDS, Band, CrKeys, MaskOptions

KIND = "hatllm"


@dataclass(frozen=True)
class HatLLMConfig:
    """The settings of a HatLLM; those that the paper's text does not tell are marked (open).

    Attributes:
        embedding_dim: D, size of item and user embeddings.
        in_layers: First layers, masked to the item (open: how many).
        cr_layers: Last layers, masked to other items' last tokens (open: how many). The rest is OR; 0 and 0 is the
            same network without masks.
        band_order: Of the bands; another one is an ablation.
        cr_keys: ``last``, or ``all`` for the ablation.
        nonitem_visible_in: See :class:`MaskOptions` (open), like the two after it.
        nonitem_visible_cr: Likewise.
        self_visible_cr: Likewise.
        target_as_item: Whether a title that is being generated counts as an item of its own (open).
        item_end: What ends an item, and so which token is its last (open).
        prompt: Text before the history (open). With one, only the dense forward is exact.
        text_fields: What of an item is read.
        max_item_tokens: A longer title is cut at its end.
        max_history_length: M, most items read; see :func:`window`.
        has_item_vectors: Whether known items have a learned vector summed onto their embedding.
        item_tower: ``self``: an item's embedding is this network's, run on it alone; ``hllm``: an Item LLM's.
        modes: Trained for, ``retrieve`` and/or ``generate``.
        dropout: Of the token embeddings in training, 0 <= dropout < 1.
        kind: Always ``hatllm``.
    """

    embedding_dim: int
    in_layers: int
    cr_layers: int
    band_order: tuple[Band, ...] = BANDS
    cr_keys: CrKeys = "last"
    nonitem_visible_in: bool = False
    nonitem_visible_cr: bool = True
    self_visible_cr: bool = True
    target_as_item: bool = True
    item_end: ItemEnd = "end_token"
    prompt: str = ""
    text_fields: tuple[str, ...] = ("title",)
    max_item_tokens: int = 32
    max_history_length: int = 50
    has_item_vectors: bool = False
    item_tower: Literal["self", "hllm"] = "self"
    modes: tuple[Mode, ...] = ("retrieve",)
    dropout: float = 0.0
    kind: str = KIND

    def __post_init__(self) -> None:
        checks = {
            "kind": self.kind == KIND,
            "embedding_dim": self.embedding_dim >= 1,
            "in_layers": self.in_layers >= 0,
            "cr_layers": self.cr_layers >= 0,
            "band_order": sorted(self.band_order) == sorted(BANDS),
            "item_end": self.item_end in ITEM_ENDS,
            "text_fields": bool(self.text_fields),
            "max_item_tokens": self.max_item_tokens >= 1,
            "max_history_length": self.max_history_length >= 1,
            "item_tower": self.item_tower in ("self", "hllm"),
            "modes": bool(self.modes) and set(self.modes) <= set(MODES),
            "dropout": 0 <= self.dropout < 1,
            "has_item_vectors": not (self.has_item_vectors and self.item_tower == "hllm"),
        }
        for name, holds in checks.items():
            if not holds:
                raise InvalidInput(f"HatLLM configuration: {name} {getattr(self, name)!r} is not allowed")
        if "generate" in self.modes and self.item_end == "title":
            raise InvalidInput(
                "HatLLM configuration: a title that begins like another one cannot be told from it without an "
                "end; to generate, item_end is expected to be 'quote' or 'end_token'"
            )

    @property
    def mask_options(self) -> MaskOptions:
        """Of the bands."""
        return MaskOptions(
            cr_keys=self.cr_keys,
            nonitem_visible_in=self.nonitem_visible_in,
            nonitem_visible_cr=self.nonitem_visible_cr,
            self_visible_cr=self.self_visible_cr,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HatLLMConfig":
        """The inverse of :meth:`to_dict`.

        Raises:
            ArtifactIncompatible: A key is missing or unknown: written by another release.
        """
        expected = {field.name for field in fields(cls)}
        if strange := sorted(expected ^ set(values)):
            raise ArtifactIncompatible(f"HatLLM configuration: keys missing or unknown: {', '.join(strange)}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


def window(num_items: int, max_history_length: int) -> int:
    """How many of the latest items of a history are read.

    A window that slides with every event would move every position, and nothing kept of a user could be used
    again. So the window grows to M items, then begins anew at half of that; where it begins depends on the length
    of the history alone.

    Args:
        num_items: Length of the history.
        max_history_length: M.

    Returns:
        All up to M; beyond, between M // 2 + 1 and M.
    """
    if num_items <= max_history_length:
        return num_items
    kept = max_history_length // 2
    return kept + 1 + (num_items - max_history_length - 1) % (max_history_length - kept)
