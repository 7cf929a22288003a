"""A live A-against-B of kinds of models: which user meets which one, by a stable hash."""

import hashlib
from bisect import bisect_right
from itertools import accumulate
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model_store.kind_names import Kind

Weight = Annotated[int, Field(ge=1, le=1_000_000)]

_HASH_BYTES = 8


class Experiment(BaseModel):
    """Splits users between kinds of models.

    The hash is a point on a line that the arms share by their weights, in the order of their names. So a user
    meets the same arm in every process and after every restart, and a change of two weights moves only users
    between these two.

    Attributes:
        name: Salts the hash: another experiment splits the users anew.
        arms: Kind of model to weight; a share is a weight over the sum of all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
    arms: Annotated[dict[Kind, Weight], Field(min_length=2)]

    def arm_of(self, user_id: str) -> Kind:
        """The kind of model that this user meets."""
        # a separator that no name has: "a" + "bc" and "ab" + "c" are different users
        digest = hashlib.sha256(f"{self.name}\x00{user_id}".encode()).digest()
        kinds = sorted(self.arms)
        ends = list(accumulate(self.arms[kind] for kind in kinds))
        point = (int.from_bytes(digest[:_HASH_BYTES], "big") * ends[-1]) >> (8 * _HASH_BYTES)
        return kinds[bisect_right(ends, point)]
