"""Which user meets which model: the same one everywhere, in the shares that were asked for; and who is told."""

import json
import subprocess
import sys
from typing import Any, get_args

import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model_store.blend import config as blend_config
from model_store.hatllm import config as hatllm_config
from model_store.hllm import network as hllm
from service.recommend.experiment import Experiment, Kind
from service.settings import Settings
from tests.shop import running_app

NUM_USERS = 20_000
_WEIGHTS = st.integers(1, 1_000)
_NAMES = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789._:-", min_size=1, max_size=64)


def _experiment(hllm: int, hatllm: int, *, name: str = "hat-vs-hllm") -> Experiment:
    return Experiment(name=name, arms={"hllm": hllm, "hatllm": hatllm})


def test_every_kind_of_model_can_be_an_arm() -> None:
    assert set(get_args(Kind)) == {hllm.KIND, hatllm_config.KIND, blend_config.KIND}


@hypothesis_settings(max_examples=15, deadline=None)
@given(hllm=_WEIGHTS, hatllm=_WEIGHTS, name=_NAMES)
def test_the_split_is_close_to_the_weights(hllm: int, hatllm: int, name: str) -> None:
    experiment = _experiment(hllm, hatllm, name=name)
    share = hllm / (hllm + hatllm)
    counted = sum(experiment.arm_of(f"user-{number}") == "hllm" for number in range(NUM_USERS))
    # six standard deviations of as many coin tosses
    assert abs(counted / NUM_USERS - share) <= 6 * (share * (1 - share) / NUM_USERS) ** 0.5


@hypothesis_settings(max_examples=50, deadline=None)
@given(user=st.text(max_size=256), hllm=_WEIGHTS, hatllm=_WEIGHTS, more=_WEIGHTS, name=_NAMES)
def test_a_larger_weight_takes_users_over_and_gives_none_away(
    user: str, hllm: int, hatllm: int, more: int, name: str
) -> None:
    before = _experiment(hllm, hatllm, name=name).arm_of(user)
    after = _experiment(hllm, hatllm + more, name=name).arm_of(user)
    assert after in {before, "hatllm"}


def test_the_order_in_which_arms_are_written_does_not_matter() -> None:
    one = Experiment(name="a", arms={"hllm": 30, "hatllm": 70})
    other = Experiment(name="a", arms={"hatllm": 70, "hllm": 30})
    assert [one.arm_of(f"u{number}") for number in range(500)] == [other.arm_of(f"u{number}") for number in range(500)]


def test_another_experiment_splits_the_users_anew() -> None:
    one, other = _experiment(1, 1, name="first"), _experiment(1, 1, name="second")
    same = sum(one.arm_of(f"u{number}") == other.arm_of(f"u{number}") for number in range(2_000))
    assert 850 < same < 1_150


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_another_process_assigns_the_same_arms(hash_seed: str) -> None:
    users = [f"user-{number}" for number in range(200)] + ["ünï\x00code", "", "x" * 256]
    script = (
        "import json, sys\n"
        "from service.recommend.experiment import Experiment\n"
        "experiment = Experiment(name='hat-vs-hllm', arms={'hatllm': 5, 'hllm': 3})\n"
        "print(json.dumps([experiment.arm_of(user) for user in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(users),
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [_experiment(3, 5).arm_of(user) for user in users]


def test_assignments_do_not_change_between_releases() -> None:
    experiment = _experiment(50, 50)
    arms = "".join(experiment.arm_of(f"user-{number}")[1] for number in range(20))
    assert arms == "llaaalllaalallllaala"


# ---- over HTTP ----

_HALVES = _experiment(50, 50)


async def _ask(client: httpx2.AsyncClient, **body: object) -> dict[str, Any]:
    answer = await client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def test_a_user_is_answered_by_their_arm_and_the_answer_and_the_metrics_say_so(
    both_settings: Settings,
) -> None:
    users = [f"user-{number}" for number in range(12)]
    async with running_app(both_settings.model_copy(update={"experiment": _HALVES})) as (_, client):
        for user in users:
            for more in ({}, {"history": ["i1"]}):
                body = await _ask(client, user_id=user, **more)
                arm = _HALVES.arm_of(user)
                assert body["experiment"] == {"name": "hat-vs-hllm", "arm": arm}
                assert (body["model"]["kind"], body["warnings"]) == (arm, [])
        metrics = (await client.get("/metrics")).text
        version = (await client.get("/version")).json()
    for kind in ("hllm", "hatllm"):
        count = float(sum(_HALVES.arm_of(user) == kind for user in users))
        line = f'hatstand_recommendations_total{{arm="{kind}",kind="{kind}",mode="retrieve",source="model"}} {count}'
        assert count
        assert line in metrics
    assert version["experiment"] == {"name": "hat-vs-hllm", "arms": {"hllm": 50, "hatllm": 50}}


async def test_who_chooses_the_model_or_cannot_be_assigned_is_in_no_arm(both_settings: Settings) -> None:
    user = next(user for user in map(str, range(99)) if _HALVES.arm_of(user) == "hatllm")
    async with running_app(both_settings.model_copy(update={"experiment": _HALVES})) as (_, client):
        named = await _ask(client, user_id=user, history=["i1"], model="hllm")
        assert (named["model"]["kind"], named["experiment"], named["warnings"]) == ("hllm", None, [])
        nobody = await _ask(client, history=["i1"])
        assert (nobody["model"]["kind"], nobody["experiment"]) == ("hllm", None)
        assert nobody["warnings"][0].startswith("no_experiment_arm: ")
        # the same for everybody, whatever their arm: the default kind cannot generate
        for one in (user, next(user for user in map(str, range(99)) if _HALVES.arm_of(user) == "hllm")):
            refused = await client.post("/recommend", json={"user_id": one, "mode": "generate"})
            assert (refused.status_code, refused.json()["code"]) == (422, "mode_not_available")
        assert (await _ask(client, user_id=user, mode="retrieve"))["model"]["kind"] == "hatllm"


async def test_an_arm_that_is_not_live_is_answered_by_the_default_and_said_to_be(settings: Settings) -> None:
    user = next(user for user in map(str, range(99)) if _HALVES.arm_of(user) == "hatllm")
    async with running_app(settings.model_copy(update={"experiment": _HALVES})) as (_, client):
        body = await _ask(client, user_id=user, history=["i1"])
        metrics = (await client.get("/metrics")).text
    assert (body["model"]["kind"], body["source"]) == ("hllm", "model")
    assert body["experiment"] == {"name": "hat-vs-hllm", "arm": "hatllm"}
    assert body["warnings"] == ["experiment_arm_not_live: no hatllm bundle is live, so hllm answers"]
    assert 'hatstand_recommendations_total{arm="hatllm",kind="hllm",mode="retrieve",source="model"} 1.0' in metrics
