"""Puts several models together as one: their cosines are added, each with a weight that is chosen on validation.

What comes out is a model of kind ``blend`` in the store. ``offline.reindex`` makes one bundle with one exact index of
it, and the service serves it as any other model. A run that was killed goes on where it was.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.blending.blend import WEIGHT_CASES, blend_models
from offline.blending.recipe import member_settings, read_recipe, train_members
from offline.job import job
from offline.job.devices import chosen_device
from offline.job.store_models import find_model

LOGGER = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="The dataset directory that the models were, or are to be, trained on.")],
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A trained model, by its id; to be given for each member.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A YAML file of members to train, or the name of one that is shipped.")
    ] = None,
    item_llm: Annotated[str | None, typer.Option(help="For the recipe: a pre-trained Item LLM.")] = None,
    seed: Annotated[int, typer.Option(help="Added to the seed of each member of the recipe.")] = 0,
    max_minutes: Annotated[float | None, typer.Option(help="Of each training stage of the recipe.")] = None,
    max_cases: Annotated[int, typer.Option(help="Weights are chosen on so many cases; 0 = all.", min=0)] = WEIGHT_CASES,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Blend trained models, or train the models of a recipe and blend them."""
    if bool(model) == bool(recipe):
        raise InvalidInput("expected either --model for each member, or --recipe")
    opened = ModelStore(store)
    if recipe:
        settings = member_settings(
            read_recipe(recipe), data=data, store=store, item_llm=item_llm, seed=seed, max_minutes=max_minutes
        )
        members = train_members(settings, opened)
    else:
        members = _by_id(opened, model or [])
    blend, weighed = blend_models(opened, members, data, max_cases=max_cases, device=chosen_device(device))
    for name, alone in weighed.alone.items():
        weight = weighed.weights.get(name)
        share = "left out" if weight is None else f"weight {weight:.2f}"
        typer.echo(f"{name}: {share}, validation NDCG@10 alone {alone['ndcg@10']:.4f}")
    typer.echo(f"together: validation NDCG@10 {weighed.metrics['ndcg@10']:.4f}")
    job.report(
        {
            "model_id": blend.model_id,
            "kind": blend.kind,
            "weights": weighed.weights,
            "metrics": blend.metrics,
            "alone": weighed.alone,
            "members": {name: member.model_id for name, member in members.items()},
        }
    )


def _by_id(store: ModelStore, models: list[str]) -> dict[str, ModelManifest]:
    found = [find_model(store, one) for one in models]
    return {manifest.model_id: manifest for manifest in found}


if __name__ == "__main__":
    job.run(app)
