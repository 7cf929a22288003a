"""A blend as a directory, and back.

::

    config.json            BlendConfig: the heads with their weights, how texts are read
    item_llm/ adapter/     the Item LLM that the members share, once
    members/<name>/        each member's own directory as ``hllm/files.py`` has it, without its Item LLM
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from model_store.backbone.model_files import CONFIG_FILE, digest_folders, read_settings, write_json
from model_store.blend.config import KIND, TEXT_SETTINGS, BlendConfig
from model_store.blend.heads import Head, Heads
from model_store.blend.network import Blend
from model_store.errors import InvalidInput
from model_store.hllm import files as hllm_files
from model_store.hllm.network import HLLMConfig

MEMBERS = "members"


def write_blend(directory: Path, members: Mapping[str, Path], weights: Mapping[str, float]) -> BlendConfig:
    """Puts HLLM model directories together as a blend.

    Args:
        directory: To be filled.
        members: Name to model directory.
        weights: Of the same names, above 0.

    Returns:
        What ``config.json`` says.

    Raises:
        InvalidInput: The members that read text do not share one Item LLM and one way to read.
    """
    configs = {name: hllm_files.read_config(path) for name, path in members.items()}
    config = _blend_config(configs, weights)
    readers = [name for name, member in configs.items() if member.item_input == "text"]
    _check_same_item_llm({name: members[name] for name in readers})
    directory.mkdir(parents=True, exist_ok=True)
    for folder in hllm_files.ITEM_FOLDERS if readers else ():
        if (members[readers[0]] / folder).is_dir():
            shutil.copytree(members[readers[0]] / folder, directory / folder)
    left_out = shutil.ignore_patterns("item_llm", "manifest.json")
    for name, path in members.items():
        shutil.copytree(path, directory / MEMBERS / name, ignore=left_out)
    write_json(directory / CONFIG_FILE, config.to_dict())
    return config


def load_blend(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ("item",),  # noqa: ARG001 (the user's sides are loaded one by one, by the encoder)
) -> Blend:
    """Loads the item side of a blend, in evaluation mode.

    Args:
        directory: Written by :func:`write_blend`.
        device: Where to put it.
        dtype: Of the weights.
        parts: As of the other kinds; a blend has no user's side of its own.
    """
    directory = Path(directory)
    config = read_config(directory)
    shared = hllm_files.load_item_backbone(directory, dtype=dtype) if config.item_input == "text" else None
    members = [
        hllm_files.load_hllm(
            directory / MEMBERS / head.name, device=device, dtype=dtype, parts={"item"}, item_backbone=shared
        )
        for head in config.heads.heads
    ]
    return Blend(config, members).to(device).eval()


def read_config(directory: Path) -> BlendConfig:
    """Reads ``config.json``."""
    return BlendConfig.from_dict(read_settings(directory, {KIND}))


def item_tower_hash(directory: Path) -> str:
    """Names what the members' item embeddings depend on; not the weights of the heads."""
    directory = Path(directory)
    config = read_config(directory)
    digest = hashlib.sha256()
    digest_folders(directory, hllm_files.ITEM_FOLDERS, digest)
    for head in config.heads.heads:
        digest.update(f"\0{hllm_files.item_tower_hash(directory / MEMBERS / head.name)}".encode())
    return digest.hexdigest()


def _blend_config(configs: Mapping[str, HLLMConfig], weights: Mapping[str, float]) -> BlendConfig:
    readers = {name: config for name, config in configs.items() if config.item_input == "text"}
    ways = {name: tuple(getattr(config, setting) for setting in TEXT_SETTINGS) for name, config in readers.items()}
    first = next(iter(ways), None)
    for name, way in ways.items():
        if first is not None and way != ways[first]:
            raise InvalidInput(
                f"members {first!r} and {name!r} read texts differently ({', '.join(TEXT_SETTINGS)}: {ways[first]} and "
                f"{way}), expected the same, as one Item LLM runs for all"
            )
    some = next(iter(readers.values()), next(iter(configs.values())))
    return BlendConfig(
        heads=Heads(tuple(Head(name, config.embedding_dim, weights[name]) for name, config in configs.items())),
        item_input="text" if readers else "id",
        text_fields=some.text_fields,
        item_prompt=some.item_prompt,
        max_text_tokens=some.max_text_tokens,
        pooling=some.pooling,
    )


def _check_same_item_llm(members: Mapping[str, Path]) -> None:
    digests = {}
    for name, path in members.items():
        digest = hashlib.sha256()
        digest_folders(path, hllm_files.ITEM_FOLDERS, digest)
        digests[name] = digest.hexdigest()
    different = [name for name, digest in digests.items() if digest != next(iter(digests.values()))]
    if different:
        raise InvalidInput(
            f"members {json.dumps(different)} have another Item LLM than {next(iter(members))!r}; expected the same "
            "one, frozen, in all that read texts (--stage 2)"
        )
