"""The language models underneath: any Hugging Face decoder (or encoder) by directory, hub id or preset.

Only the base model is ever loaded, never the LM head: HLLM reads hidden states and no vocabulary logits.
Weights come from safetensors only and no code of the checkpoint is run.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from model_store.backbone.layered_attention import register_layered_attention
from model_store.errors import ArtifactIncompatible, ArtifactNotFound, InvalidInput

PRESET_PREFIX = "preset:"
SDPA = "sdpa"
_LM_HEAD = "lm_head.weight"
_PRESET_POSITIONS = 2048
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")
# How PEFT names the configuration of an adapter.
ADAPTER_FILE = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Preset:
    """The shape of a Llama-like model made from nothing."""

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int


PRESETS = {
    "tiny": Preset(hidden_size=128, num_layers=2, num_heads=4, vocab_size=4096),
    "small": Preset(hidden_size=256, num_layers=2, num_heads=4, vocab_size=8192),
    "base": Preset(hidden_size=512, num_layers=8, num_heads=8, vocab_size=16384),
}


@dataclass
class Backbone:
    """A base language model without a head, and its tokenizer if it is to read text.

    Attributes:
        model: In evaluation mode; a ``PeftModel`` around it after LoRA was applied.
        tokenizer: None for a model that reads embeddings only.
        hidden_size: Width of its states.
        lm_head: (V, H) weights that lead from states to tokens, where they were asked for and are not the word
            embeddings themselves.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    hidden_size: int
    lm_head: torch.Tensor | None = None

    @property
    def is_causal(self) -> bool:
        """Whether a position sees earlier positions only (a decoder), not the whole text (an encoder)."""
        return is_causal(self.model)


def is_causal(model: torch.nn.Module) -> bool:
    """Whether the attention of ``model`` looks backwards only."""
    flags = [getattr(module, "is_causal", None) for module in model.modules()]
    return True in flags and False not in flags


def load_backbone(
    source: str | Path,
    *,
    tokenizer_corpus: Iterable[str] | None = None,
    random_init: bool = False,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = SDPA,
    with_lm_head: bool = False,
) -> Backbone:
    """Loads or makes a base language model.

    Args:
        source: A local Hugging Face (or sentence-transformers) directory, a hub id, or
            ``preset:tiny|small|base``.
        tokenizer_corpus: Texts from which a preset's tokenizer is trained; without them it has none.
        random_init: Keep the architecture of ``source`` but start from random weights (presets always do).
        hidden_size: Another width; for random weights only, like the next two.
        num_layers: Another depth.
        num_heads: Another number of attention heads.
        dtype: Of the weights.
        attention: ``sdpa``, or ``layered_sdpa`` for a model that takes one mask per layer.
        with_lm_head: Read the language model's head too, if the checkpoint has one of its own.

    Returns:
        The backbone, in evaluation mode, on the CPU.

    Raises:
        ArtifactNotFound: There is no such directory, or it lacks a configuration or weights.
        ArtifactIncompatible: It holds something that is not a plain language model.
        InvalidInput: An unknown preset, or a shape that cannot be.
    """
    register_layered_attention()
    wanted = zip(_SHAPE, (hidden_size, num_layers, num_heads), strict=True)
    overrides = {name: value for name, value in wanted if value is not None}
    if str(source).startswith(PRESET_PREFIX):
        return _from_preset(str(source), corpus=tokenizer_corpus, overrides=overrides, dtype=dtype, attention=attention)
    if overrides and not random_init:
        raise InvalidInput(f"{source}: pre-trained weights have a fixed shape, got {overrides}; use random_init")
    location = _locate(source, needs_weights=not random_init)
    with quiet_progress(), _refuse_as(ArtifactIncompatible, location):
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False):
            raise ArtifactIncompatible(f"{location}: {config.model_type} is an encoder-decoder, expected one stack")
        if getattr(config, "text_config", None) is not None:
            raise ArtifactIncompatible(
                f"{location}: {config.model_type} has several parts, its language model is the one under text_config; "
                "save this part alone (model.language_model.save_pretrained, and the tokenizer) and name that folder"
            )
        if random_init:
            model = _from_config(_reshape(config, overrides, location), dtype, attention)
        else:
            model = _from_pretrained(location, config, dtype, attention)
    backbone = _finish(model, tokenizer=load_tokenizer(location))
    _check_tokenizer(backbone, location)
    if with_lm_head and not random_init and Path(location).is_dir():
        backbone.lm_head = _read_lm_head(Path(location), dtype)
    return backbone


def _read_lm_head(directory: Path, dtype: torch.dtype) -> torch.Tensor | None:
    """The head's weights, if a file of the checkpoint has them; where they are tied none does."""
    for path in sorted(directory.glob("*.safetensors")):
        with _refuse_as(ArtifactIncompatible, str(path)), safe_open(path, framework="pt") as file:
            if _LM_HEAD in file.keys():  # noqa: SIM118
                head: torch.Tensor = file.get_tensor(_LM_HEAD).to(dtype)
                return head
    return None


def _from_pretrained(location: str, config: PreTrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    model, found = AutoModel.from_pretrained(
        location,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # the library would start these from random values and say so in a log line only
    if missing := sorted(name for name in found["missing_keys"] if "pooler" not in name):
        raise ArtifactIncompatible(f"{location}: {len(missing)} weights are missing, {missing[0]} among them")
    return cast(PreTrainedModel, model)


def _from_preset(
    source: str, *, corpus: Iterable[str] | None, overrides: dict[str, int], dtype: torch.dtype, attention: str
) -> Backbone:
    name = source.removeprefix(PRESET_PREFIX)
    if name not in PRESETS:
        raise InvalidInput(f"unknown preset {name!r}, expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    tokenizer = None if corpus is None else train_tokenizer(corpus, vocab_size=preset.vocab_size)
    width = overrides.get("hidden_size", preset.hidden_size)
    num_heads = overrides.get("num_attention_heads", preset.num_heads)
    num_layers = overrides.get("num_hidden_layers", preset.num_layers)
    _check_shape(source, width=width, num_heads=num_heads, num_layers=num_layers)
    config = LlamaConfig(
        vocab_size=1 if tokenizer is None else len(tokenizer),
        hidden_size=width,
        intermediate_size=_swiglu_width(width),
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=_PRESET_POSITIONS,
        bos_token_id=None if tokenizer is None else tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=None if tokenizer is None else tokenizer.pad_token_id,
    )
    return _finish(_from_config(config, dtype, attention), tokenizer=tokenizer)


def _swiglu_width(hidden_size: int) -> int:
    # Llama's rule: two thirds of four times the width, to a multiple of 32
    return max(32, -(-8 * hidden_size // 3) // 32 * 32)


def _reshape(config: PreTrainedConfig, overrides: dict[str, int], location: str) -> PreTrainedConfig:
    if not overrides:
        return config
    shape = {name: overrides.get(name, getattr(config, name)) for name in _SHAPE}
    width, num_layers, num_heads = (shape[name] for name in _SHAPE)
    _check_shape(location, width=width, num_heads=num_heads, num_layers=num_layers)
    for name, value in overrides.items():
        setattr(config, name, value)
    if "num_attention_heads" in overrides and hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = config.num_attention_heads
    if "hidden_size" in overrides:
        config.intermediate_size = _swiglu_width(config.hidden_size)
    if hasattr(config, "head_dim"):
        config.head_dim = config.hidden_size // config.num_attention_heads
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * config.num_hidden_layers)[: config.num_hidden_layers]
    return config


def _check_shape(source: str, *, width: int, num_heads: int, num_layers: int) -> None:
    if min(width, num_heads, num_layers) < 1 or width % (2 * num_heads):
        raise InvalidInput(
            f"{source}: {num_layers} layers of width {width} with {num_heads} heads; "
            "expected at least one of each, and an even width per head"
        )


def _from_config(config: PreTrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    return AutoModel.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False)


def _finish(model: PreTrainedModel, *, tokenizer: PreTrainedTokenizerBase | None) -> Backbone:
    if getattr(model, "pooler", None) is not None:  # BERT's, which nothing here reads
        cast(Any, model).pooler = None
    return Backbone(model=model.eval(), tokenizer=tokenizer, hidden_size=int(model.config.hidden_size))


def _check_tokenizer(backbone: Backbone, location: str) -> None:
    """Refuses a tokenizer with ids beyond the embedding, before any text meets it."""
    num_rows = cast(torch.Tensor, backbone.model.get_input_embeddings().weight).shape[0]
    if backbone.tokenizer is None or num_rows == 1:  # a model that is fed embeddings only
        return
    # Tokenizer classes add special tokens of their own, which stand in no text.
    ids = set(backbone.tokenizer.get_vocab().values()) - set(backbone.tokenizer.all_special_ids)
    largest = max(ids, default=0)
    if largest >= num_rows:
        raise ArtifactIncompatible(
            f"{location}: the tokenizer has ids up to {largest}, the word embedding has {num_rows} rows: resize the "
            "embedding (model.resize_token_embeddings(len(tokenizer))) and save both, or take the tokenizer of these "
            "weights"
        )


def _locate(source: str | Path, *, needs_weights: bool) -> str:
    """A local directory with a configuration (and weights), or a hub id."""
    directory = Path(source)
    if not directory.is_dir():
        if directory.exists() or isinstance(source, Path) or not _HUB_ID.fullmatch(source):
            raise ArtifactNotFound(f"{source}: not a model directory, a hub id or preset:NAME")
        return source
    if not (directory / "config.json").is_file() and (directory / "0_Transformer/config.json").is_file():
        directory = directory / "0_Transformer"  # older sentence-transformers
    if (directory / ADAPTER_FILE).is_file() and not list(directory.glob("model*.safetensors")):
        raise ArtifactIncompatible(
            f"{directory}: an adapter (PEFT), without the model that it belongs to; merge both first "
            "(PeftModel.from_pretrained(model, FOLDER).merge_and_unload().save_pretrained) and name that folder"
        )
    if not (directory / "config.json").is_file():
        raise ArtifactNotFound(f"{directory}: no config.json, expected a Hugging Face model directory")
    if needs_weights and not list(directory.glob("*.safetensors")):
        pickled = sorted(path.name for path in directory.glob("*.bin"))
        hint = f"; {pickled[0]} is a pickle, convert it to safetensors first" if pickled else ""
        raise ArtifactNotFound(f"{directory}: no weights (*.safetensors){hint}")
    return str(directory)


def load_tokenizer(location: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a local directory or hub id; None if a directory has none."""
    if Path(location).is_dir():
        names = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "tokenizer_config.json")
        if not any((Path(location) / name).is_file() for name in names):
            return None
    with quiet_progress(), _refuse_as(ArtifactIncompatible, location):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    return tokenizer


def train_tokenizer(corpus: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE tokenizer that starts each text with ``<s>`` and can read any text.

    Args:
        corpus: Item texts.
        vocab_size: At most this many tokens.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=_PRESET_POSITIONS,
    )


def enable_checkpointing(model: Any) -> None:
    """Trades time for memory in training: activations inside the model are computed twice."""
    # its name in the transformers releases that are supported
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()


def drop_word_embeddings(model: PreTrainedModel) -> None:
    """Replaces the word embeddings by a table of one row, for a model that is fed embeddings only.

    A table must remain: the library's loading and saving expect one.
    """
    weight = cast(torch.Tensor, model.get_input_embeddings().weight)
    if weight.shape[0] == 1:
        return
    table = torch.nn.Embedding(1, weight.shape[1], device=weight.device, dtype=weight.dtype)
    torch.nn.init.zeros_(table.weight)
    model.set_input_embeddings(table)
    model.config.vocab_size = 1
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # ids beyond the table are refused
        setattr(model.config, name, None)


def load_directory(
    directory: Path, *, dtype: torch.dtype, with_tokenizer: bool = True, attention: str = SDPA
) -> Backbone:
    """Like :func:`load_backbone`, of a local directory only; its tokenizer must be there if asked for."""
    if not directory.is_dir():
        raise ArtifactNotFound(f"{directory}: no such directory")
    backbone = load_backbone(directory, dtype=dtype, attention=attention)
    if with_tokenizer and backbone.tokenizer is None:
        raise ArtifactNotFound(f"{directory}: no tokenizer files")
    return backbone


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Keeps the library's progress bars and loading tables out of a service's log."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_enabled:
            transformers_logging.enable_progress_bar()


@contextmanager
def _refuse_as(error_type: type[Exception], location: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        kind: Any = ArtifactNotFound if isinstance(error, OSError) else error_type
        reason = " ".join(str(error).split())[:300]
        raise kind(f"{location}: cannot be loaded as a language model: {reason}") from error
