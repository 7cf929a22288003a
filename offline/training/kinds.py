"""How each kind of model is trained; not blends, which are put together from trained ones (``offline/blending``)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model_store.artifacts.manifest import ModelManifest
from offline.training.hatllm.settings import HatTrainSettings
from offline.training.hllm.settings import TrainSettings
from offline.training.run_settings import RunSettings


@dataclass(frozen=True)
class OfflineKind:
    """One kind of model, for batch jobs.

    Attributes:
        help: What is trained, in one sentence.
        settings: What a training run is told; its fields are the options of the command.
        train: Such settings to a model in the store.
        demo: Options of the demo's training, beside those of every kind.
    """

    help: str
    settings: type[RunSettings]
    train: Callable[[Any], ModelManifest]
    demo: Mapping[str, Any]


# The training libraries take seconds to import, which a help text or a reindex need not wait for.
def _train_hllm(settings: TrainSettings) -> ModelManifest:
    from offline.training.hllm.run import train_hllm

    return train_hllm(settings)


def _train_hatllm(settings: HatTrainSettings) -> ModelManifest:
    from offline.training.hatllm.run import train_hatllm

    return train_hatllm(settings)


KINDS: dict[str, OfflineKind] = {
    "hllm": OfflineKind(
        help="Train an HLLM: an Item LLM that embeds texts and a User LLM that reads those embeddings.",
        settings=TrainSettings,
        train=_train_hllm,
        # short texts: on two cores the Item LLM is most of the work
        demo={"text_fields": ("title",), "item_prompt": ""},
    ),
    "hatllm": OfflineKind(
        help="Train a HatLLM: one language model over the titles of a history, masked by item in bands of layers.",
        settings=HatTrainSettings,
        train=_train_hatllm,
        demo={"objective": "both"},
    ),
}
