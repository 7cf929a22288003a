"""Trained models to one blend in the store."""

from collections.abc import Mapping
from pathlib import Path

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.blend.config import KIND
from model_store.blend.files import item_tower_hash, write_blend
from model_store.errors import InvalidInput
from offline.blending.members import put_side_by_side
from offline.blending.weights import Weighed, choose_weights
from offline.dataset.dataset import Dataset
from offline.dataset.splits import EvaluationCases, SplitName, divide
from offline.evaluation.cases import sample_cases
from offline.evaluation.catalogue_ranking import history_of

# enough that a weight's second digit does not change
WEIGHT_CASES = 8_000


def blend_models(
    store: ModelStore,
    members: Mapping[str, ModelManifest],
    data: Path,
    *,
    max_cases: int = WEIGHT_CASES,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[ModelManifest, Weighed]:
    """Chooses the weights on the validation cases that the members' training had, and adds the blend to the store.

    Args:
        store: Has the members.
        members: Name to model; models that do not help are left out.
        data: The dataset that they were trained on.
        max_cases: Weights are chosen on a sample of so many cases; 0: all.
        seed: Of the sample.
        device: Where models run.

    Raises:
        InvalidInput: The models cannot be blended, or the dataset has no validation cases.
    """
    if not members:
        raise InvalidInput("a blend needs at least one member")
    dataset = Dataset.open(data)
    split = next(iter(members.values())).training.get("split", "leave-one-out")
    cases = sample_cases(_validation(dataset, SplitName(split)), max_cases, seed=seed)
    histories = [history_of(cases, case) for case in range(len(cases.targets))]
    with store.staging() as staged:
        beside = put_side_by_side(store, members, dataset.catalogue(), directory=staged / "all", device=device)
        seen = [history.item_indices for history in histories]
        weighed = choose_weights(beside.look(histories, device=device), seen, cases.targets)
    return add_blend(store, members, weighed), weighed


def _validation(dataset: Dataset, split: SplitName) -> EvaluationCases:
    cases = divide(dataset, split, name=str(dataset.directory)).validation
    if not len(cases.targets):
        raise InvalidInput(f"{dataset.directory} has no validation cases in split {split}")
    return cases


def add_blend(store: ModelStore, members: Mapping[str, ModelManifest], weighed: Weighed) -> ModelManifest:
    """Adds the blend of the members that have a weight to the store."""
    kept = {name: members[name] for name in weighed.weights}
    first = next(iter(kept.values())).training
    with store.staging() as staged:
        paths = {name: store.model_directory(member.model_id, verify=False) for name, member in kept.items()}
        config = write_blend(staged, paths, weighed.weights)
        return store.add_model(
            staged,
            kind=KIND,
            embedding_dim=config.embedding_dim,
            item_tower_hash=item_tower_hash(staged),
            parents=[member.model_id for member in kept.values()],
            metrics={f"validation_{name}": value for name, value in weighed.metrics.items()},
            training={
                "split": first.get("split"),
                "hold_out_items": first.get("hold_out_items"),
                "seed": first.get("seed"),
                "weights": weighed.weights,
                "alone": weighed.alone,
                "members": {name: member.training for name, member in kept.items()},
            },
        )
