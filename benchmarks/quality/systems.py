"""The systems that are compared: baselines, the members of a recipe, and their blend."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.kinds import make_user_encoder
from offline.baselines.next_item import NextItemSettings
from offline.baselines.table import BASELINES, Work
from offline.blending.blend import blend_models
from offline.blending.recipe import member_settings, read_recipe, train_members
from offline.dataset.dataset import INTERACTIONS_FILE, ITEMS_FILE, Dataset
from offline.dataset.splits import Split
from offline.evaluation.catalogue_ranking import ModelScorer, Scorer
from offline.evaluation.items import find_items

BLEND = "blend"
# what does not depend on a seed
SEEDLESS = frozenset({"popularity", "item-knn"})


@dataclass(frozen=True)
class Study:
    """What is compared on what.

    Attributes:
        data: A dataset directory.
        store: Of the trained models.
        split: Of the dataset.
        num_items: N.
        recipe: Path or name.
        item_llm: For the recipe.
        max_minutes: Of each training stage, and of each baseline.
    """

    data: Path
    store: ModelStore
    split: Split
    num_items: int
    recipe: str
    item_llm: str | None
    max_minutes: float

    def key(self, split: str) -> str:
        """Names all that a measurement depends on, so that no other one's rankings are taken for its own."""
        settings = {
            "split": split,
            "recipe": read_recipe(self.recipe),
            "item_llm": self.item_llm,
            "max_minutes": self.max_minutes,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name in (ITEMS_FILE, INTERACTIONS_FILE):
            with (self.data / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def baseline(self, name: str, seed: int) -> Scorer:
        """Trains a baseline."""
        settings = replace(NextItemSettings(), max_minutes=self.max_minutes, seed=seed)
        return BASELINES[name](Work(self.split, self.num_items, settings)).scorer

    def members(self, seed: int) -> dict[str, ModelManifest]:
        """Trains the members of the recipe, or finds them in the store."""
        settings = member_settings(
            read_recipe(self.recipe),
            data=self.data,
            store=self.store.root,
            item_llm=self.item_llm,
            seed=seed,
            max_minutes=self.max_minutes,
        )
        return train_members(settings, self.store)

    def blend_scorer(self, members: Mapping[str, ModelManifest]) -> Scorer:
        """The blend of the members, with weights chosen on validation."""
        return self.scorer(blend_models(self.store, members, self.data)[0])

    def scorer(self, model: ModelManifest) -> Scorer:
        """A model as the service runs it."""
        items = find_items(self.store, model, Dataset.open(self.data).catalogue())
        return ModelScorer(items.directions, make_user_encoder(items))


def reads_clicks_alone(model: ModelManifest) -> bool:
    """Whether a member of a recipe was trained without texts."""
    return bool(model.training["settings"].get("item_input") == "id")
