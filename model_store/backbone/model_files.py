"""What the directories of both kinds of model have in common: JSON settings, learned tensors, tokenizers, hashes."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound

CONFIG_FILE = "config.json"
HEADS_FILE = "heads.safetensors"
KNOWN_ITEMS_FILE = "known_items.parquet"
_FLOAT32_HEADS = frozenset({"logit_scale"})


def read_settings(directory: Path, kinds: Collection[str]) -> dict[str, Any]:
    """Reads ``config.json`` of a model of one of these kinds.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is not JSON.
        ArtifactIncompatible: It is of another kind.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file, expected a model directory")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactCorrupt(f"{path}: not JSON: {error}") from error
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in kinds:
        raise ArtifactIncompatible(f"{path}: a model of kind {kind!r}, expected {' or '.join(sorted(kinds))}")
    settings: dict[str, Any] = values
    return settings


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON object, its keys sorted."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Writes a tokenizer without traces of where it came from and how it was last used."""
    tokenizer.save_pretrained(directory)
    state_path = directory / "tokenizer.json"
    if state_path.exists():  # a slow tokenizer has none
        state = json.loads(state_path.read_text(encoding="utf-8"))
        # what the last call asked for, kept by the library: a model must not change its hash by being used
        write_json(state_path, {**state, "truncation": None, "padding": None})
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only", "name_or_path"):  # how it was loaded: no part of the model
        settings.pop(name, None)
    write_json(path, settings)


def save_known_item_ids(item_ids: Collection[str], directory: Path) -> None:
    """Writes which item each row of the item vectors is of."""
    pq.write_table(pa.table({"item_id": pa.array(list(item_ids), pa.string())}), directory / KNOWN_ITEMS_FILE)


def read_known_item_ids(directory: Path) -> list[str]:
    """Ids of the items with a learned vector, by row.

    Raises:
        ArtifactNotFound: There is no such file.
        ArtifactCorrupt: It cannot be read.
    """
    path = directory / KNOWN_ITEMS_FILE
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file, but the model has item vectors")
    try:
        ids: list[str] = pq.read_table(path, columns=["item_id"])["item_id"].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from error
    return ids


def save_heads(model: torch.nn.Module, directory: Path, *, without: Iterable[str]) -> None:
    """Writes what was learned outside the parts of the model named in ``without``."""
    heads = {name: tensor.detach().cpu().contiguous() for name, tensor in _heads(model, without).items()}
    save_file(heads, directory / HEADS_FILE, metadata={"format": "pt"})


def fill_heads(model: torch.nn.Module, directory: Path, dtype: torch.dtype, *, without: Iterable[str]) -> None:
    """The inverse of :func:`save_heads`; tensors that the model has no place for are left out.

    Raises:
        ArtifactNotFound: There is no such file.
        ArtifactCorrupt: It cannot be read, lacks a tensor or has one of another shape, or one that is not finite.
    """
    path = directory / HEADS_FILE
    own = _heads(model, without)
    with open_heads(directory) as heads, torch.no_grad():
        if missing := sorted(set(own) - set(heads.keys())):
            raise ArtifactCorrupt(f"{path}: tensors missing: {', '.join(missing)}")
        for name, module, attribute in _owners(model, own):
            tensor = heads.get_tensor(name)
            if tensor.shape != own[name].shape:
                raise ArtifactCorrupt(f"{path}: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            check_finite({name: tensor}, path)
            kept = torch.float32 if name in _FLOAT32_HEADS else dtype
            setattr(module, attribute, torch.nn.Parameter(tensor.to(kept)))


def check_finite(tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Refuses weights that are infinite or not numbers.

    Raises:
        ArtifactCorrupt: Names the first tensor that has one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ArtifactCorrupt(f"{source}: {name} has values that are not finite numbers; train the model again")


def open_heads(directory: Path) -> Any:
    """Opens the file of learned tensors.

    Raises:
        ArtifactNotFound: There is no such file.
        ArtifactCorrupt: It cannot be read.
    """
    path = directory / HEADS_FILE
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from error


def digest_heads(directory: Path, prefixes: tuple[str, ...], digest: Any) -> None:
    """Adds the tensors whose names begin so to a hash."""
    with open_heads(directory) as heads:
        for name in sorted(name for name in heads.keys() if name.startswith(prefixes)):  # noqa: SIM118
            digest.update(f"\0{name}\0".encode())
            digest.update(heads.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes())


def digest_folders(directory: Path, folders: Iterable[str], digest: Any) -> None:
    """Adds names and contents of all files in some of a model's folders to a hash."""
    for folder in folders:
        for path in sorted(path for path in (directory / folder).rglob("*") if path.is_file()):
            digest.update(f"\0{path.relative_to(directory).as_posix()}\0".encode())
            _digest_file(path, digest)


def _digest_file(path: Path, digest: Any) -> None:
    if path.name == CONFIG_FILE:  # which release of the library wrote it does not change what it computes
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("transformers_version", None)
        digest.update(json.dumps(values, sort_keys=True).encode())
        return
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)


def _heads(model: torch.nn.Module, without: Iterable[str]) -> dict[str, torch.Tensor]:
    """Learned tensors outside the language models, by their name in the module tree."""
    parts = tuple(without)
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(f".{part}." in f".{name}" for part in parts)
    }


def _owners(model: torch.nn.Module, names: Collection[str]) -> Iterator[tuple[str, torch.nn.Module, str]]:
    for name in names:
        path, _, attribute = name.rpartition(".")
        yield name, model.get_submodule(path), attribute
