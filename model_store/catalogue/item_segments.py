"""An item's title as a segment of tokens with exact borders, as HatLLM reads it.

Titles are tokenised one by one and never as part of a sentence: a tokenizer merges a closing quote with the
comma after it, and the border of the item would move (arXiv 2510.10955 masks by item, so a border is
everything). A title that is too long is cut at its own end, before what ends the item.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

from transformers import PreTrainedTokenizerBase

from model_store.catalogue.item_text import CHARACTERS_PER_TOKEN, TokenBatch, as_text, collate, item_text
from model_store.errors import InvalidInput

ItemEnd = Literal["title", "quote", "end_token"]
ITEM_ENDS: tuple[ItemEnd, ...] = get_args(ItemEnd)


class SegmentSettings(Protocol):
    """What :class:`ItemSegments` needs to know of a model's configuration."""

    @property
    def max_item_tokens(self) -> int: ...  # noqa: D102
    @property
    def item_end(self) -> str: ...  # noqa: D102


class ItemSegments:
    """Turns titles into segments: what opens an item, the title's tokens, what ends it.

    ``title``: the title alone (an empty one is the padding token); ``quote``: in double quotes, the closing one
    followed by a comma; ``end_token``: the tokenizer's end-of-sequence token after it.

    Args:
        tokenizer: A Hugging Face tokenizer; no start or end tokens of its own are added.
        config: The model's settings.

    Raises:
        InvalidInput: The tokenizer has no end token and one is asked for, or the limit leaves no room for a title.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: SegmentSettings) -> None:
        self.tokenizer = tokenizer
        candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
        self._pad_id = next(int(token_id) for token_id in candidates if token_id is not None)
        self._is_quoted = config.item_end == "quote"
        self._opening, self._closing = self.borders(config.item_end)
        self._max_title_tokens = config.max_item_tokens - len(self._opening) - len(self._closing)
        if self._max_title_tokens < 1:
            raise InvalidInput(
                f"max_item_tokens is {config.max_item_tokens}, but {config.item_end!r} needs "
                f"{len(self._opening) + len(self._closing)} tokens beside the title; expected more"
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each title's segment: at least one, at most ``max_item_tokens``."""
        if self._is_quoted:  # a quote inside a title would look like its end
            texts = [text.replace('"', "'") for text in texts]
        titles = self._tokenize(texts, limit=self._max_title_tokens)
        segments = [self._opening + title + self._closing for title in titles]
        return [segment or [self._pad_id] for segment in segments]

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a text that belongs to no item."""
        return self._tokenize([prompt], limit=None)[0] if prompt else []

    def collate(self, token_ids: Sequence[Sequence[int]]) -> TokenBatch:
        """Right-pads segments to the longest: (B, T)."""
        return collate(token_ids, pad_id=self._pad_id)

    def borders(self, item_end: str) -> tuple[list[int], list[int]]:
        """The token ids that open and close an item, by how items end."""
        if item_end == "title":
            return [], []
        if item_end == "quote":
            opening, closing = self._tokenize(['"', '",'], limit=None)
            return opening, closing
        end_id = self.tokenizer.eos_token_id
        if end_id is None:
            raise InvalidInput("the tokenizer has no end-of-sequence token; expected item_end 'quote' or 'title'")
        return [], [int(end_id)]

    def _tokenize(self, texts: Sequence[str], *, limit: int | None) -> list[list[int]]:
        if not texts:
            return []
        options: dict[str, Any] = {} if limit is None else {"truncation": True, "max_length": limit}
        encoded = self.tokenizer(
            [text if limit is None else text[: limit * CHARACTERS_PER_TOKEN] for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,  # a title that spells "</s>" has not ended
            return_attention_mask=False,
            return_token_type_ids=False,
            **options,
        )
        token_ids: list[list[int]] = encoded["input_ids"]
        return token_ids


def segment_text(fields: Mapping[str, Any], field_names: Sequence[str]) -> str:
    """What an item is called: the value of its one field, or ``name: value`` of several."""
    if len(field_names) == 1:
        return as_text(fields.get(field_names[0]))
    return item_text(fields, prompt="", field_names=field_names)
