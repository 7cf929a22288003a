"""Makes something to serve from nothing: a generated shop, a small HLLM trained on it, its index.

Does nothing where the store has a live bundle, and goes on where a killed run was.
"""

import logging
import time
from typing import Annotated

import typer

from model_store.store import ModelStore
from offline import job
from offline.build import train_and_publish
from offline.demo_shop import generate_shop
from offline.training.settings import TrainSettings

LOGGER = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, help=__doc__)

NUM_ITEMS = 2_000
# enough to see when to stop; ranking all users after every epoch would take longer than the epoch
VALIDATION_CASES = 500


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Path or URL of the model store.")],
    seed: Annotated[int, typer.Option(help="Of the shop and of the training.")] = 0,
    max_minutes: Annotated[float, typer.Option(help="Wall-clock limit of each training stage.", min=0.01)] = 1.5,
) -> None:
    """Builds and publishes the demo unless the store has a live bundle."""
    target = ModelStore(store)
    live = target.live()
    if live.bundles:
        job.report({"store": store, "live": live.bundles, "built": False})
        return
    started = time.monotonic()
    data = target.work_directory("demo") / f"shop-{seed}"
    if not data.exists():
        LOGGER.info("generating a shop of %d items in %s", NUM_ITEMS, data)
        generate_shop(data, num_items=NUM_ITEMS, seed=seed)
    bundle = train_and_publish(
        TrainSettings(
            data=data,
            store=store,
            preset="tiny",
            # short texts: on two cores the Item LLM is most of the work
            text_fields=("title",),
            item_prompt="",
            max_minutes=max_minutes,
            validation_cases=VALIDATION_CASES,
            seed=seed,
        )
    )
    job.report(
        {
            "store": store,
            "bundle_id": bundle.bundle_id,
            "model_id": bundle.model_id,
            "dataset": data,
            "built": True,
            "seconds": round(time.monotonic() - started, 1),
        }
    )


if __name__ == "__main__":
    job.run(app)
