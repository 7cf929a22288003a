"""A recipe: the models of a blend, as the commands that train them.

::

    members:
      clicks: hllm --item-input id
      text: hllm --user-model lags --item-llm {item_llm}
"""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from offline.dataset.dataset import Dataset
from offline.training.command_options import parse_settings
from offline.training.corpus import run_key
from offline.training.kinds import KINDS
from offline.training.run_settings import RunSettings

LOGGER = logging.getLogger(__name__)
RECIPES = Path(__file__).parent / "recipes"
_ITEM_LLM = "{item_llm}"


def read_recipe(recipe: str) -> dict[str, list[str]]:
    """Reads a recipe.

    Args:
        recipe: Path of a YAML file, or the name of one that comes with the product.

    Returns:
        Name of each member to the arguments of ``offline.train``.

    Raises:
        InvalidInput: There is no such recipe, or it is not one.
    """
    path = RECIPES / f"{recipe}.yaml" if (RECIPES / f"{recipe}.yaml").is_file() else Path(recipe)
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in RECIPES.glob("*.yaml")))
        raise InvalidInput(f"recipe {recipe!r} is neither a file nor one of {known}")
    try:
        members = yaml.safe_load(path.read_text())["members"]
        return {str(name): shlex.split(command) for name, command in members.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(
            f"{path} is no recipe ({reason}), expected 'members:' with a name and a command each"
        ) from None


def member_settings(
    recipe: Mapping[str, list[str]],
    *,
    data: Path,
    store: str,
    item_llm: str | None,
    seed: int,
    max_minutes: float | None,
) -> dict[str, RunSettings]:
    """The settings of each member's training.

    Args:
        recipe: From :func:`read_recipe`.
        data: A dataset directory.
        store: Path or URL of the model store.
        item_llm: In the place of ``{item_llm}``.
        seed: Added to each member's own.
        max_minutes: Of each training stage.

    Raises:
        InvalidInput: A command is not one, or needs an Item LLM and there is none.
    """
    settings = {}
    for name, (kind, *options) in recipe.items():
        if kind not in KINDS:
            raise InvalidInput(f"member {name!r} is trained by {kind!r}, expected {' or '.join(KINDS)}")
        if _ITEM_LLM in options and item_llm is None:
            raise InvalidInput(f"member {name!r} reads texts with a pre-trained Item LLM: --item-llm is needed")
        filled = [str(item_llm) if option == _ITEM_LLM else option for option in options]
        parsed = parse_settings(KINDS[kind].settings, [*filled, "--data", str(data), "--store", store])
        settings[name] = replace(parsed, seed=parsed.seed + seed, max_minutes=max_minutes)
    return settings


def train_members(settings: Mapping[str, RunSettings], store: ModelStore) -> dict[str, ModelManifest]:
    """Trains each member, but for those that the store has already, of the same settings and data."""
    members: dict[str, ModelManifest] = {}
    for name, one in settings.items():
        key = run_key(Dataset.open(one.data), one)
        known = next((model for model in store.models() if model.training.get("run") == key), None)
        if known is None:
            LOGGER.info("member %s: training (%d of %d)", name, len(members) + 1, len(settings))
        else:
            LOGGER.info("member %s: the store has it, %s", name, known.model_id)
        members[name] = known or KINDS[one.kind].train(one)
    return members
