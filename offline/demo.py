"""Makes something to serve from nothing: a generated shop, and a small model of each kind trained on it, indexed.

Builds the kinds that the store has no live bundle of, and goes on where a killed run was.
"""

import logging
import time
from typing import Annotated

import typer

from model_store.artifacts.store import ModelStore
from offline.build import train_and_publish
from offline.job import job
from offline.shop.demo_shop import generate_shop
from offline.training.kinds import KINDS

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
    """Builds and publishes the demo, as far as the store does not have it."""
    target = ModelStore(store)
    live = target.live().bundles
    missing = [kind for kind in KINDS if kind not in live]
    # a store with a bundle that is not the demo's is somebody's own: nothing is added to it
    data = target.work_directory("demo") / f"shop-{seed}"
    if not missing or (live and not data.exists()):
        job.report({"store": store, "live": live, "built": []})
        return
    started = time.monotonic()
    if not data.exists():
        LOGGER.info("generating a shop of %d items in %s", NUM_ITEMS, data)
        generate_shop(data, num_items=NUM_ITEMS, seed=seed)
    for kind in missing:
        LOGGER.info("training and indexing the %s of the demo", kind)
        options = {"preset": "tiny", "validation_cases": VALIDATION_CASES, **KINDS[kind].demo}
        train_and_publish(KINDS[kind].settings(data, store, max_minutes=max_minutes, seed=seed, **options))
    job.report(
        {
            "store": store,
            "live": target.live().bundles,
            "dataset": data,
            "built": missing,
            "seconds": round(time.monotonic() - started, 1),
        }
    )


if __name__ == "__main__":
    job.run(app)
