"""Shows what a HatLLM looks at: heat maps of one history, and how much attention crosses items in each layer.

Both are computed by the dense forward, with the model's masks and, for comparison, with the same weights without any
(the plain causal mask in every layer).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model_store.artifacts.store import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from model_store.hatllm.attention_maps import attention_maps
from model_store.hatllm.config import KIND
from model_store.hatllm.files import load_hatllm
from model_store.hatllm.network import HatLLM
from offline.dataset.dataset import Dataset, UserSequences
from offline.job import job
from offline.job.devices import chosen_device
from offline.job.store_models import find_model
from offline.studies.attention_report import HeatMaps, draw_heat_maps, draw_shares, format_shares
from offline.studies.attention_shares import HistoryReader, ReadHistory, measure_shares

HEAT_MAPS = "heat_maps.png"
CROSS_ITEM = "cross_item.png"
REPORT = "attention.json"
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class AttentionSettings:
    """What to look at.

    Attributes:
        model: A model_id of the store, or a model directory, of kind hatllm.
        data: A dataset directory.
        store: Path or URL of the model store.
        out: Directory for plots and report, made if need be.
        user_id: Whose history the heat maps show; None: the first long enough one.
        item_ids: The heat maps show these items, oldest first, instead of a user's.
        layers: Which layers the heat maps show; empty: the first, middle and last one of each band.
        heat_items: The heat maps show at most so many of a user's latest items.
        num_users: Over how many users the shares are taken.
        max_tokens: Longer histories lose their oldest items: an attention map takes its square.
        seed: Chooses the users.
        device: Where the model runs.
        json_path: The report; None: in ``out``.
    """

    model: str
    data: Path
    store: str
    out: Path
    user_id: str | None = None
    item_ids: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    heat_items: int = 8
    num_users: int = 200
    max_tokens: int = 1024
    seed: int = 0
    device: str = "cpu"
    json_path: Path | None = None

    def __post_init__(self) -> None:
        if self.user_id is not None and self.item_ids:
            raise InvalidInput("--user and --items both name a history, expected one of them")


def look(settings: AttentionSettings) -> dict[str, Any]:
    """Draws the heat maps, measures the shares, and writes both.

    Returns:
        The report: ``history`` (what the heat maps show) and ``layers`` (the shares).

    Raises:
        InvalidInput: Another kind of model, an unknown user, item or layer, or a dataset without long enough histories.
        ArtifactNotFound: No such model.
    """
    store = ModelStore(settings.store)
    manifest = find_model(store, settings.model)
    if manifest.kind != KIND:
        raise InvalidInput(f"model {manifest.model_id} is of kind {manifest.kind!r}, expected {KIND!r}")
    dataset = Dataset.open(settings.data)
    catalogue, sequences = dataset.catalogue(), dataset.sequences()
    directory = store.model_directory(manifest.model_id)
    model = load_hatllm(directory, device=settings.device, parts={"user"}, merge_adapters=True)
    layers = _chosen_layers(model, settings.layers)
    user_id, items = _chosen_history(settings, catalogue, sequences)
    users = _chosen_users(settings, sequences)
    reader = HistoryReader(model, catalogue, max_tokens=settings.max_tokens)
    settings.out.mkdir(parents=True, exist_ok=True)

    history = reader.read(items)
    maps = _heat_maps(model, reader, history, layers, title=f"{user_id or 'a history'}, {manifest.model_id}")
    draw_heat_maps(maps, settings.out / HEAT_MAPS)
    report = {
        "model_id": manifest.model_id,
        "dataset": settings.data.resolve().name,
        "history": {
            "user_id": user_id,
            "item_ids": [catalogue.id_of(int(item)) for item in history.item_indices],
            "tokens": history.input_ids.shape[1],
            "layers": list(layers),
        },
        "num_users": len(users),
        "layers": measure_shares(model, reader, [sequences.user(row).item_indices for row in users]),
    }
    draw_shares(report, settings.out / CROSS_ITEM)
    path = settings.json_path or settings.out / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _heat_maps(
    model: HatLLM, reader: HistoryReader, history: ReadHistory, layers: Sequence[int], *, title: str
) -> HeatMaps:
    drawn = {
        is_masked: attention_maps(model, history.input_ids, history.item_map, layers=layers, is_masked=is_masked)
        for is_masked in (True, False)
    }
    # tokens of no item come first, if at all
    item_of = history.item_map[0].cpu().numpy()
    ends = np.flatnonzero(np.append(item_of[1:] != item_of[:-1], True)) + 1
    labels = [reader.text(int(item)) for item in history.item_indices]
    return HeatMaps(
        title=title,
        labels=[""] * (len(ends) - len(labels)) + labels,
        ends=ends,
        bands={layer: model.bands[layer] for layer in layers},
        masked={layer: drawn[True][layer][0].cpu().numpy() for layer in layers},
        unmasked={layer: drawn[False][layer][0].cpu().numpy() for layer in layers},
    )


def _chosen_layers(model: HatLLM, layers: tuple[int, ...]) -> list[int]:
    num_layers = len(model.bands)
    if layers:
        if wrong := [layer for layer in layers if not 0 <= layer < num_layers]:
            raise InvalidInput(f"--layers {wrong[0]}: the model has {num_layers} layers, expected 0..{num_layers - 1}")
        return sorted(set(layers))
    chosen: set[int] = set()
    for band in set(model.bands):
        own = [layer for layer, other in enumerate(model.bands) if other == band]
        chosen |= {own[0], own[(len(own) - 1) // 2], own[-1]}
    return sorted(chosen)


def _chosen_history(
    settings: AttentionSettings, catalogue: Catalogue, sequences: UserSequences
) -> tuple[str | None, np.ndarray]:
    """Whose history the heat maps show, if anybody's, and its items."""
    if settings.item_ids:
        indices = catalogue.indices_of(settings.item_ids)
        if (indices == 0).any():
            unknown = settings.item_ids[int(np.argmin(indices))]
            raise InvalidInput(f"--items: {unknown!r} is not in {settings.data}")
        return None, indices
    if not len(sequences):
        raise InvalidInput(f"{settings.data} has no interactions; name a history by --items")
    if settings.user_id is None:
        is_long = sequences.lengths >= settings.heat_items
        row = int(np.argmax(is_long if is_long.any() else sequences.lengths))
    elif settings.user_id in sequences.user_ids:
        row = sequences.user_ids.index(settings.user_id)
    else:
        raise InvalidInput(f"--user: {settings.user_id!r} is not in {settings.data}")
    return str(sequences.user_ids[row]), sequences.user(row).item_indices[-settings.heat_items :].astype(np.int64)


def _chosen_users(settings: AttentionSettings, sequences: UserSequences) -> np.ndarray:
    """Rows of users with an item before another."""
    rows = np.flatnonzero(sequences.lengths >= 2)
    if not len(rows):
        raise InvalidInput(f"{settings.data} has no user with two interactions, so no attention can cross items")
    chosen = np.random.default_rng(settings.seed).permutation(rows)[: settings.num_users]
    return np.sort(chosen)


def _numbers(layers: str) -> tuple[int, ...]:
    parts = [part.strip() for part in layers.split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdigit()]:
        raise InvalidInput(f"--layers {wrong[0]!r}: expected numbers by commas, such as 0,5")
    return tuple(int(part) for part in parts)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="model_id in the store, or a model directory; of kind hatllm.")],
    data: Annotated[Path, typer.Option(help="A dataset directory.")],
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    out: Annotated[Path, typer.Option(help="Directory for the plots and the report.")],
    user: Annotated[str | None, typer.Option(help="Whose history is drawn; the first long one if absent.")] = None,
    items: Annotated[str, typer.Option(help="Draw these items instead: ids by commas, oldest first.")] = "",
    layers: Annotated[str, typer.Option(help="Draw these layers; three of each band if absent.")] = "",
    heat_items: Annotated[int, typer.Option(help="Draw at most so many of a user's latest items.", min=1)] = 8,
    users: Annotated[int, typer.Option(help="Measure the shares over so many users.", min=1)] = 200,
    max_tokens: Annotated[int, typer.Option(help="Longer histories lose their oldest items.", min=1)] = 1024,
    seed: Annotated[int, typer.Option(help="Chooses the users.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="The report; in --out if absent.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Draw what a HatLLM looks at, and measure how much of it crosses items."""
    settings = AttentionSettings(
        model=model,
        data=data,
        store=store,
        out=out,
        user_id=user,
        item_ids=tuple(item.strip() for item in items.split(",") if item.strip()),
        layers=_numbers(layers),
        heat_items=heat_items,
        num_users=users,
        max_tokens=max_tokens,
        seed=seed,
        device=chosen_device(device),
        json_path=json_path,
    )
    report = look(settings)
    typer.echo(format_shares(report))
    job.report(
        {
            "model_id": report["model_id"],
            "user_id": report["history"]["user_id"],
            "num_users": report["num_users"],
            "heat_maps": out / HEAT_MAPS,
            "cross_item": out / CROSS_ITEM,
            "json": json_path or out / REPORT,
        }
    )


if __name__ == "__main__":
    job.run(app)
