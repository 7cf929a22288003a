"""Any sequence of publish, rollback and garbage collection, against a model that fits on a page."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_store.artifacts.store import ModelStore
from model_store.errors import ArtifactNotFound
from tests.model_store.made_artifacts import add_bundle, add_model

SEEDS = st.integers(0, 4)


class StoreMachine(RuleBasedStateMachine):
    """``history`` is the truth: what went live and was not rolled back, oldest first, each bundle once."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = ModelStore(Path(self.directory.name) / "store")
        self.history: list[str] = []

    def teardown(self) -> None:
        self.directory.cleanup()

    @rule(seed=SEEDS)
    def add(self, seed: int) -> None:
        add_bundle(self.store, add_model(self.store, seed % 2), seed)

    @rule(seed=SEEDS)
    def add_and_publish(self, seed: int) -> None:
        bundle = add_bundle(self.store, add_model(self.store, seed % 2), seed).bundle_id
        assert self.store.publish(bundle).bundles == {"hllm": bundle}
        self.history = [one for one in self.history if one != bundle] + [bundle]

    @rule()
    def roll_back(self) -> None:
        present = {one.bundle_id for one in self.store.bundles()}
        earlier = [one for one in self.history[:-1] if one in present]
        if earlier:
            assert self.store.rollback() == earlier[-1]
            self.history = self.history[: self.history.index(earlier[-1]) + 1]
        else:
            try:
                self.store.rollback()
            except ArtifactNotFound:
                return
            raise AssertionError("rolled back to nothing")

    @precondition(lambda self: self.history)
    @rule(keep=st.integers(0, 3))
    def collect(self, keep: int) -> None:
        before = {one.bundle_id for one in self.store.bundles()}
        target = [one for one in self.history[:-1] if one in before][-1:]
        newest = [one.bundle_id for one in self.store.bundles()][:keep]
        removed = set(self.store.collect_garbage(keep=keep))
        after = {one.bundle_id for one in self.store.bundles()}
        assert after == before - removed
        assert after == {*newest, *target, self.history[-1]}

    @invariant()
    def what_is_live_is_whole(self) -> None:
        live = self.store.live()
        assert list(live.bundles.values()) == self.history[-1:]
        models = {one.model_id for one in self.store.models()}
        for bundle in self.store.bundles():
            assert bundle.model_id in models
            self.store.bundle_directory(bundle.bundle_id)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
