"""The members of a blend, looked at side by side: their item embeddings, and what they make of histories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.blend.files import MEMBERS, item_tower_hash, load_blend, write_blend
from model_store.blend.heads import Heads
from model_store.blend.user_encoder import MemberItems
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from model_store.hllm.network import KIND as MEMBER_KIND
from model_store.hllm.user_encoder import HLLMUserEncoder
from model_store.index import normalize
from model_store.people.histories import History
from offline.blending.weights import Member
from offline.evaluation.items import EvaluatedItems
from offline.indexing.embed_items import EmbedOptions, embed_catalogue
from offline.job import job

_CASES_AT_ONCE = 512


@dataclass(frozen=True)
class SideBySide:
    """Trained models as one blend in which all weigh the same, and its embeddings of a catalogue.

    Attributes:
        heads: Of the blend.
        items: The embeddings, and the blend's directory.
    """

    heads: Heads
    items: EvaluatedItems

    def look(self, histories: Sequence[History], *, device: str) -> list[Member]:
        """What each member makes of C histories."""
        members = []
        for head, part in zip(self.heads.heads, self.heads.slices(), strict=True):
            source = MemberItems(self.items.model_directory / MEMBERS / head.name, self.items, part)
            encoder = HLLMUserEncoder(source, torch.device(device), torch.float32)
            starts = range(0, len(histories), _CASES_AT_ONCE)
            users = [
                encoder.encode(histories[start : start + _CASES_AT_ONCE])
                for start in job.progress(starts, description=f"users by {head.name}", unit="batch")
            ]
            directions = normalize(np.asarray(self.items.embeddings[:, part]))
            members.append(Member(head.name, torch.from_numpy(np.concatenate(users)), torch.from_numpy(directions)))
        return members


def put_side_by_side(
    store: ModelStore, members: Mapping[str, ModelManifest], catalogue: Catalogue, *, directory: Path, device: str
) -> SideBySide:
    """Writes the blend of some models and embeds a catalogue with it, once: a killed run finds its shards again.

    Args:
        store: Has the models.
        members: Name to model.
        catalogue: N items.
        directory: For the blend; must not exist.
        device: Where the Item LLM runs.

    Raises:
        InvalidInput: The models cannot be blended.
    """
    for name, member in members.items():
        if member.kind != MEMBER_KIND:
            raise InvalidInput(f"member {name!r} is a {member.kind}, expected models of kind {MEMBER_KIND}")
    check_trained_alike(members)
    paths = {name: store.model_directory(member.model_id) for name, member in members.items()}
    config = write_blend(directory, paths, dict.fromkeys(members, 1.0))
    model = load_blend(directory, device=device)
    embedded = embed_catalogue(
        model,
        catalogue,
        directory=store.work_directory(f"embed-{item_tower_hash(directory)[:32]}"),
        options=EmbedOptions(device=device),
    )
    return SideBySide(config.heads, EvaluatedItems(catalogue, None, directory, embedded.embeddings, heads=config.heads))


def check_trained_alike(members: Mapping[str, ModelManifest]) -> None:
    """Refuses members of which one may have seen what another is judged by.

    Raises:
        InvalidInput: They were trained on different splits, or with other items held out.
    """
    first, *others = members.items()
    for name, member in others:
        for key in ("split", "hold_out_items"):
            one, other = first[1].training.get(key), member.training.get(key)
            if one != other:
                raise InvalidInput(f"members {first[0]!r} and {name!r} were trained with {key} {one!r} and {other!r}")
