"""What a blend's ``config.json`` says."""

from dataclasses import asdict, dataclass
from typing import Any

from model_store.blend.heads import Heads, make_heads
from model_store.errors import ArtifactIncompatible

KIND = "blend"
TEXT_SETTINGS = ("text_fields", "item_prompt", "max_text_tokens", "pooling")


@dataclass(frozen=True)
class BlendConfig:
    """The members of a blend and how they read an item's text, which is the same for all that read one.

    Attributes:
        heads: One per member.
        item_input: ``text``, or ``id`` where no member reads texts.
        text_fields: Which fields make up an item's text, in this order.
        item_prompt: Put before the text.
        max_text_tokens: Longer texts are cut.
        pooling: ``mean`` or ``item_token``.
        kind: Always ``blend``.
    """

    heads: Heads
    item_input: str
    text_fields: tuple[str, ...]
    item_prompt: str
    max_text_tokens: int
    pooling: str
    kind: str = KIND

    @property
    def embedding_dim(self) -> int:
        """D, of all heads and the slack."""
        return self.heads.embedding_dim

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        heads = [asdict(head) for head in self.heads.heads]
        return {**asdict(self), "heads": heads, "text_fields": list(self.text_fields)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BlendConfig":
        """The inverse of :meth:`to_dict`.

        Raises:
            ArtifactIncompatible: A key is missing or unknown: written by another release.
        """
        try:
            heads = make_heads(values["heads"])
            return cls(**{**values, "heads": heads, "text_fields": tuple(values["text_fields"])})
        except (KeyError, TypeError) as error:
            raise ArtifactIncompatible(f"blend configuration: {error}") from error
