"""From two files to a live bundle: import, train, reindex, publish. A killed run goes on where it was.

The same three jobs can be run one by one (``offline.import_data``, ``offline.train``, ``offline.reindex``);
this one is for the first day, and for the demo.
"""

import hashlib
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from model_store.artifacts.manifest import BundleManifest, ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.blending.blend import blend_models
from offline.dataset.dataset import Dataset
from offline.dataset.formats import canonical
from offline.evaluate import EvaluateSettings, evaluate
from offline.evaluation.report import ALL_CASES
from offline.import_data import ImportOptions, echo_report, import_source
from offline.job import job
from offline.job.devices import chosen_device
from offline.load_histories import LoadSettings, load_histories
from offline.redis.connection import read_address
from offline.reindex import ReindexSettings, reindex
from offline.training.kinds import KINDS
from offline.training.run_settings import RunSettings

app = typer.Typer(add_completion=False, help=__doc__)

# Enough for two digits of recall, and a few seconds of work.
_MEASURED_USERS = 2_000


def import_once(items: Path, interactions: Path, store: str, options: ImportOptions) -> Path:
    """Imports two canonical files into the store's work folder, unless the same files were imported before.

    Args:
        items: ``items.jsonl[.gz]``.
        interactions: ``interactions.csv[.gz]``.
        store: Path or URL of the model store.
        options: How to import.

    Returns:
        The dataset directory.

    Raises:
        InvalidInput: A file cannot be read, or has too many bad rows.
    """
    fingerprint = hashlib.sha256(f"{options.max_bad}".encode())
    for path in (items, interactions):
        try:
            with path.open("rb") as file:
                fingerprint.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    out = ModelStore(store).work_directory("datasets") / fingerprint.hexdigest()[:12]
    if not out.exists():
        echo_report(import_source(canonical.source(items, interactions), out, options))
    return out


def train_and_publish(settings: RunSettings, *, text_head: RunSettings | None = None) -> BundleManifest:
    """Trains a model on a dataset, indexes the dataset's items with it and makes the bundle live.

    Args:
        settings: What to train; their type says which kind.
        text_head: What to train beside it: where the two together are better on validation, their blend is published,
            as the store's default.

    Returns:
        The manifest of the live bundle.

    Raises:
        InvalidInput: Bad data or settings, or the bundle does not pass its gates.
    """
    model = KINDS[settings.kind].train(settings)
    chosen = model if text_head is None else _with_text_head(model, text_head)
    # with a head, what is published may be of another kind than last night
    is_default = text_head is not None
    return reindex(ReindexSettings(chosen.model_id, settings.data, settings.store, make_default=is_default))


def _with_text_head(model: ModelManifest, text_head: RunSettings) -> ModelManifest:
    """The blend of a model and a text head; the model itself where the head adds nothing."""
    head = KINDS[text_head.kind].train(text_head)
    members = {"model": model, "text": head}
    blend, weighed = blend_models(ModelStore(text_head.store), members, text_head.data)
    alone, together = weighed.alone["model"]["ndcg@10"], weighed.metrics["ndcg@10"]
    if weighed.weights.keys() != members.keys():
        typer.echo(f"The text head adds nothing (validation NDCG@10 {alone:.4f}): the model is published without it.")
        return model
    typer.echo(f"With a text head, validation NDCG@10 is {together:.4f}, not {alone:.4f}: the blend is published.")
    return blend


@app.command()
def main(
    items: Annotated[Path, typer.Option(help="items.jsonl[.gz]: item_id, title, any attributes.")],
    interactions: Annotated[Path, typer.Option(help="interactions.csv[.gz]: user_id,item_id,timestamp.")],
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    kind: Annotated[str, typer.Option(help=f"Of the model: {' or '.join(KINDS)}.")] = "hllm",
    preset: Annotated[str, typer.Option(help="tiny, small or base: shapes and recipe.")] = "small",
    item_llm: Annotated[str | None, typer.Option(help="Directory or hub id of a pre-trained Item LLM.")] = None,
    user_llm: Annotated[str | None, typer.Option(help="Directory or hub id of a pre-trained User LLM.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Directory or hub id of a HatLLM's pre-trained decoder.")] = None,
    max_bad: Annotated[float, typer.Option(help="Fraction of a file's rows that may be bad.", min=0, max=1)] = 0.01,
    max_minutes: Annotated[float | None, typer.Option(help="Wall-clock limit of each training stage.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    text_head: Annotated[
        bool | None,
        typer.Option(help="Train a text head, too; publish the blend if validation agrees. Default: with --item-llm."),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="Of the service's Redis: load the histories of the users into it.")
    ] = None,
    redis_cluster: Annotated[bool, typer.Option("--redis-cluster", help="The url names a node of a cluster.")] = False,
    text_field: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the items, read in this order; may be given several times. Default: what looks like words."
        ),
    ] = None,
) -> None:
    """Builds and publishes a bundle from a catalogue and a click log."""
    if kind not in KINDS:
        raise InvalidInput(f"--kind is {kind!r}, expected {' or '.join(KINDS)}")
    chosen = KINDS[kind].settings
    weights = {"item_llm": item_llm, "user_llm": user_llm, "backbone": backbone}
    given: dict[str, Any] = {name: value for name, value in weights.items() if value is not None}
    for name in given:
        if name not in chosen.__dataclass_fields__:
            raise InvalidInput(f"--{name.replace('_', '-')} has no use with --kind {kind}; leave it out")
    text_head = item_llm is not None if text_head is None else text_head
    if text_head and item_llm is None:
        raise InvalidInput("--text-head reads texts with a pre-trained Item LLM: give --item-llm, or leave it out")
    if redis_url is not None:
        read_address(redis_url, cluster=redis_cluster)  # a wrong url is told now, not after the training
    given |= {"text_fields": tuple(text_field)} if text_field else {}
    data = import_once(items, interactions, store, ImportOptions(max_bad=max_bad))
    settings = chosen(data, store, preset=preset, max_minutes=max_minutes, device=device, seed=seed, **given)
    head = None
    if text_head:
        reading = {name: value for name, value in given.items() if name != "user_llm"} | {"user_model": "lags"}
        head = chosen(data, store, preset=preset, max_minutes=max_minutes, device=device, seed=seed, **reading)
    bundle = train_and_publish(settings, text_head=head)
    loaded = _load(data, redis_url, cluster=redis_cluster)
    metrics = _measure(bundle, data, store, device=device)
    job.report(
        {
            "bundle_id": bundle.bundle_id,
            "model_id": bundle.model_id,
            "dataset": data,
            "num_items": bundle.num_items,
            "num_users": len(Dataset.open(data).sequences()),
            "store": store,
            "histories": loaded,
            "metrics": metrics,
        }
    )


def _measure(bundle: BundleManifest, data: Path, store: str, *, device: str) -> dict[str, float]:
    """Recall@10 of the model and of what is popular, on the last event of up to so many users; says what to do next."""
    settings = EvaluateSettings(
        bundle.model_id, data, store, bundle=bundle.bundle_id, max_cases=_MEASURED_USERS, device=chosen_device(device)
    )
    systems = evaluate(settings)["systems"]
    recalls = {name: float(systems[name][ALL_CASES]["recall@10"]) for name in ("model", "popularity")}
    typer.echo(
        f"Recall@10 {_share(recalls['model'])}, popularity {_share(recalls['popularity'])} (the item that each of "
        f"{systems['model'][ALL_CASES]['cases']} users chose last, among all {bundle.num_items}); serve it with\n"
        f"  HATSTAND_STORE={shlex.quote(store)} python -m service"
    )
    return {f"{name}_recall@10": recall for name, recall in recalls.items()}


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _load(data: Path, redis_url: str | None, *, cluster: bool) -> dict[str, Any] | None:
    """Loads the histories of the users; without a url, says how."""
    if redis_url is not None:
        return load_histories(LoadSettings(data, redis_url, cluster))
    typer.echo(
        "The service does not know your users yet. While it runs, load their histories into its Redis:\n"
        f"  python -m offline.load_histories --data {shlex.quote(str(data))} --redis-url URL"
    )
    return None


if __name__ == "__main__":
    job.run(app)
