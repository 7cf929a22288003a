"""What else may happen in the request path machine: items are hidden, bundles swapped, and parts broken and mended."""

import sys
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import precondition, rule

from tests.machine.asking import RANDOMS
from tests.machine.people import People
from tests.machine.shop import LAST_NUMBER

KINDS = st.sampled_from(["hllm", "hatllm"])
ITEMS = st.integers(1, LAST_NUMBER).map(lambda number: f"i{number}")


class RequestPath(People):
    """All of it."""

    def teardown(self) -> None:
        failure = sys.exc_info()[1]  # what the example ended with, if it failed
        try:
            self.shop.mend()
            self.set_redis("up")
            if failure is None:
                self.look_at_everybody()
                self._recommend(Random(0), 10)
        except Exception as error:
            failure = error
            raise
        finally:
            if isinstance(failure, Exception) and not isinstance(failure, HypothesisException):
                self.tally.failures.append(f"{type(failure).__name__}: {failure}")
            self.shop.set_redis("up")
            self.tally.num_repeated += self.shop.num_repeated()
            self.shop.close()

    # hidden items

    @rule(item_id=ITEMS, random=RANDOMS, verb=st.sampled_from(["hide", "hide", "show"]), is_asked=st.booleans())
    def hide_or_show(self, item_id: str, random: Random, verb: str, is_asked: bool) -> None:
        if verb == "show" and self.model.hidden:
            item_id = random.choice(sorted(self.model.hidden))
        requests = self._requests(random, 4) if is_asked else []
        self._learn_what_is_shown()
        was_hidden = item_id in self.model.hidden
        self.model.hidden.discard(item_id)
        self.model.maybe_hidden.add(item_id)
        asked = [("POST", "/recommend", one) for one in requests]
        answer, *answers = self.shop.ask(("POST", f"/admin/items/{item_id}/{verb}", None), *asked)
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        if not self._is_acknowledged(answer):
            return
        if verb == "hide":
            self.model.maybe_hidden.discard(item_id)
            self.model.hidden.add(item_id)
        elif not was_hidden:
            self._learn_what_is_shown()

    # bundles

    @rule(kind=KINDS, random=RANDOMS, is_asked=st.booleans())
    def swap(self, kind: str, random: Random, is_asked: bool) -> None:
        bundle_id = random.choice(self.world.of_kind(kind))
        self.world.store.publish(bundle_id)
        self._change_bundles("/admin/reload", None, kind, random, is_asked=is_asked)
        assert self.model.live[kind] == {bundle_id}

    @rule(kind=KINDS, random=RANDOMS, is_asked=st.booleans())
    def roll_back(self, kind: str, random: Random, is_asked: bool) -> None:
        self._change_bundles("/admin/rollback", {"model": kind}, kind, random, is_asked=is_asked)
        assert self.model.live[kind] == {self.world.store.live().bundles[kind]}

    def _change_bundles(self, path: str, body: Any, kind: str, random: Random, *, is_asked: bool) -> None:
        requests = self._requests(random, 8) if is_asked else []
        self.model.live[kind] = set(self.world.of_kind(kind))
        asked = [("POST", "/recommend", one) for one in requests]
        answer, *answers = self.shop.ask(("POST", path, body), *asked)
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        assert answer.status_code in {200, 404}, answer.text
        live = self.shop.ask(("GET", "/version", None))[0].json()["models"]
        self.model.live = {name: {one["bundle"]} for name, one in live.items()}
        self.tally.num_swaps += 1

    # failures

    @rule(kind=KINDS, how=st.sampled_from(["spoil", "cripple", "slow_down", "break_index"]))
    def break_something(self, kind: str, how: str) -> None:
        getattr(self.shop, how)(kind)

    @rule()
    def mend(self) -> None:
        self.shop.mend()

    @rule(state=st.sampled_from(["down", "hung"]))
    @precondition(lambda self: self.shop.redis_state == "up")
    def break_redis(self, state: str) -> None:
        self.shop.set_redis(state)

    @rule()
    @precondition(lambda self: self.shop.redis_state != "up")
    def mend_redis(self) -> None:
        self.set_redis("up")

    def set_redis(self, state: str) -> None:
        self.shop.set_redis(state)
