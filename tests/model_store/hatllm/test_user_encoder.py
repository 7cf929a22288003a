"""Whatever happened to a history, the answer is the dense one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from model_store.errors import ArtifactIncompatible, InvalidInput
from model_store.hatllm.attention_maps import attention_maps
from model_store.hatllm.network import HatLLM
from model_store.hatllm.state_cache import StateCache
from model_store.hatllm.user_encoder import HatLLMUserEncoder
from model_store.hatllm.user_state import UserState
from model_store.people.histories import History
from tests.model_store.hat_models import TITLES, HatItems, make_hatllm, make_items, title_tokens

# unit vectors; the project promises 1e-4 against the masked dense forward
TOLERANCE = 1e-4
N = len(TITLES)


def history(*items: int, owner: str | None = None) -> History:
    return History(np.array(items, dtype=np.int64), np.zeros(len(items), dtype=np.int64), owner)


def dense_answer(model: HatLLM, items: list[int], length: int) -> np.ndarray:
    """(D,) unit-norm, all tokens of the window through all layers."""
    places = torch.tensor([[item - 1 for item in items[-length:]]])
    with torch.no_grad():
        query = model.dense_queries(title_tokens(model), places)[0, -1]
    unit: np.ndarray = torch.nn.functional.normalize(query, dim=0).numpy()
    return unit


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HatLLM:
    return make_hatllm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def items(model: HatLLM, tmp_path_factory: pytest.TempPathFactory) -> HatItems:
    return make_items(model, tmp_path_factory.mktemp("items") / "model")


def make_encoder(items: HatItems, *, state_bytes: int = 10**8) -> HatLLMUserEncoder:
    return HatLLMUserEncoder(items, torch.device("cpu"), torch.float32, state_bytes=state_bytes)


def test_users_of_different_lengths_in_one_batch_get_their_own_dense_answers(model: HatLLM, items: HatItems) -> None:
    encoder = make_encoder(items)
    histories = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [7] * 30, list(range(1, N + 1))]
    answers = encoder.encode([history(*one) for one in histories])
    assert answers.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(answers, axis=1), 1, atol=1e-6)
    for one, answer in zip(histories, answers, strict=True):
        np.testing.assert_allclose(answer, dense_answer(model, one, encoder.window(len(one))), atol=TOLERANCE)
        np.testing.assert_allclose(answer, encoder.encode([history(*one)])[0], atol=TOLERANCE)
    assert encoder.kept_bytes == 0  # nobody owns these


def test_more_histories_than_one_pass_holds_are_run_in_several(
    model: HatLLM, items: HatItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_encoder(items).encode([history(1 + n % N, 1 + n // N) for n in range(60)])
    monkeypatch.setattr("model_store.hatllm.user_encoder._ROWS_PER_PASS", 50)
    split = make_encoder(items).encode([history(1 + n % N, 1 + n // N) for n in range(60)])
    np.testing.assert_allclose(split, whole, atol=TOLERANCE)


def test_a_kept_state_is_used(items: HatItems, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(items)
    ran: list[int] = []
    original = HatLLMUserEncoder.read_new_items

    def counting(self: HatLLMUserEncoder, state: UserState, item_indices: np.ndarray) -> object:
        ran.append(len(item_indices))
        return original(self, state, item_indices)

    monkeypatch.setattr(HatLLMUserEncoder, "read_new_items", counting)
    encoder.encode([history(1, 2, 3, 4, owner="u")])
    encoder.encode([history(1, 2, 3, 4, owner="u")])  # nothing new: nothing runs
    encoder.encode([history(1, 2, 3, 4, 5, owner="u")])  # one event
    encoder.encode([history(1, 2, 6, 3, 4, 5, owner="u")])  # a late event: from there on
    encoder.encode([history(1, 2, owner="u")])  # erased: its last item again
    encoder.encode([history(1, 2, owner="other")])
    assert ran == [4, 1, 4, 1, 2]
    assert encoder.kept_bytes > 0
    assert encoder.forget("u")
    assert not encoder.forget("u")
    assert encoder.forget("other")
    assert encoder.kept_bytes == 0


def test_explain_is_the_dense_forwards_cr_attention_of_the_query(model: HatLLM, items: HatItems) -> None:
    one = [3, 1, 4, 1, 5]
    encoder = make_encoder(items)
    for kept in (None, [], [3, 1], [3, 1, 4, 1], one, [*one, 9]):  # whatever was kept before
        if kept:
            encoder.encode([history(*kept, owner="u")])
        weights = encoder.explain(history(*one, owner="u" if kept is not None else None))
        tokens, places = title_tokens(model), torch.tensor([[item - 1 for item in one]])
        input_ids, item_map, _ = model.dense_inputs(tokens, model.lay_out(tokens, places))
        maps = attention_maps(model, input_ids, item_map, layers=model.cr_layers)
        looked = torch.stack([by_layer[0, -1] for by_layer in maps.values()]).mean(dim=0)
        expected = [float(looked[item_map[0] == ordinal].sum()) for ordinal in range(1, 6)]
        np.testing.assert_allclose(weights, expected, atol=1e-5)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        encoder.encode([history(*one, owner="u")])[0], dense_answer(model, one, 5), atol=TOLERANCE
    )


@pytest.mark.parametrize("settings", [{"cr_layers": 0}, {"cr_keys": "all"}, {"prompt": "read: "}])
def test_every_model_encodes_and_explains(settings: dict[str, object], tmp_path: Path) -> None:
    other = make_hatllm(tmp_path, **settings)
    encoder = make_encoder(make_items(other, tmp_path / "model"))
    histories = [[3, 1, 4], [2], [5, 9, 2, 6, 5, 3, 5, 8, 9]]
    answers = encoder.encode([history(*one, owner=str(one)) for one in histories])
    for one, answer in zip(histories, answers, strict=True):
        np.testing.assert_allclose(answer, dense_answer(other, one, encoder.window(len(one))), atol=TOLERANCE)
        weights = encoder.explain(history(*one))
        assert weights.shape == (encoder.window(len(one)),)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_encoded_is_refused(model: HatLLM, items: HatItems) -> None:
    encoder = make_encoder(items)
    for bad in (history(), history(0, 1), History(np.array([1, 2]), np.array([0]))):
        with pytest.raises(InvalidInput, match="expected at least one item"):
            encoder.encode([bad])
    with pytest.raises(ArtifactIncompatible, match="no item_states"):
        make_encoder(HatItems(items.model_directory, items.item_tokens, None))


def test_the_cache_is_bounded_and_forgets_what_is_being_worked_on(model: HatLLM, items: HatItems) -> None:
    encoder = make_encoder(items)
    encoder.encode([history(1, 2, 3, owner="u")])
    size = encoder.kept_bytes
    small = make_encoder(items, state_bytes=int(size * 2.5))
    for user in range(10):
        small.encode([history(1, 2, 3, owner=str(user))])
        assert small.kept_bytes <= size * 2.5
    assert [small.forget(str(user)) for user in range(10)] == [False] * 8 + [True] * 2

    cache = StateCache(10**8)
    since = cache.now()
    with encoder.state_of(history(1, 2, 3)) as state:
        assert not cache.forget("u")  # while the user's state is out
        cache.put("u", state, since=since)
        assert len(cache) == 0
        cache.put("u", state, since=cache.now())
        assert len(cache) == 1
        assert cache.num_bytes == state.num_bytes


class Histories(RuleBasedStateMachine):
    """Events, late events, erasures, windows, evictions and swaps, in any order."""

    models: dict[str, tuple[HatLLM, HatItems]] = {}

    @initialize()
    def start(self) -> None:
        self.users: dict[str, list[int]] = {f"u{n}": [] for n in range(4)}
        self.current = "first"
        self.encoder = make_encoder(self.models["first"][1])

    @rule(user=st.integers(0, 3), items=st.lists(st.integers(1, N), min_size=1, max_size=5))
    def events(self, user: int, items: list[int]) -> None:
        self.users[f"u{user}"] += items

    @rule(user=st.integers(0, 3), item=st.integers(1, N), at=st.floats(0, 1))
    def late_event(self, user: int, item: int, at: float) -> None:
        own = self.users[f"u{user}"]
        own.insert(int(at * len(own)), item)

    @rule(user=st.integers(0, 3), count=st.integers(1, 20))
    def part_is_erased(self, user: int, count: int) -> None:
        del self.users[f"u{user}"][-count:]

    @rule(user=st.integers(0, 3))
    def user_is_erased(self, user: int) -> None:
        self.users[f"u{user}"] = []
        self.encoder.forget(f"u{user}")

    @rule(state_bytes=st.sampled_from([0, 60_000, 10**8]))
    def swap(self, state_bytes: int) -> None:
        self.current = "second" if self.current == "first" else "first"
        self.encoder = make_encoder(self.models[self.current][1], state_bytes=state_bytes)

    @rule(users=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def recommend(self, users: list[int]) -> None:
        asked = [f"u{user}" for user in users if self.users[f"u{user}"]]
        if not asked:
            return
        answers = self.encoder.encode([history(*self.users[user], owner=user) for user in asked])
        model, _ = self.models[self.current]
        for user, answer in zip(asked, answers, strict=True):
            own = self.users[user]
            expected = dense_answer(model, own, self.encoder.window(len(own)))
            np.testing.assert_allclose(answer, expected, atol=TOLERANCE)

    @rule(user=st.integers(0, 3))
    def explain(self, user: int) -> None:
        own = self.users[f"u{user}"]
        if own:
            weights = self.encoder.explain(history(*own, owner=f"u{user}"))
            assert weights.sum() == pytest.approx(1, abs=1e-4)

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "encoder"):
            assert self.encoder.kept_bytes <= 10**8


def test_any_order_of_events_gives_the_dense_answer(model: HatLLM, items: HatItems, tmp_path: Path) -> None:
    second = make_hatllm(tmp_path, seed=1, in_layers=1, cr_layers=4, max_history_length=5)
    Histories.models = {"first": (model, items), "second": (second, make_items(second, tmp_path / "model"))}
    case = Histories.TestCase
    case.settings = settings(
        max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    case("runTest").runTest()
