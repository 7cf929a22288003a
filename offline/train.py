"""Trains a model and adds it to the store; one subcommand per kind of model.

A run that was killed goes on from its last checkpoint when the same command is given again. Several
processes: ``torchrun --nproc-per-node 2 -m offline.train hllm ...``.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from model_store.artifacts.manifest import ModelManifest
from offline.dataset.splits import SplitName
from offline.job import job
from offline.training import command_options as common
from offline.training.command_options import LOSS, MODEL, TEXT, WHAT
from offline.training.hatllm.settings import HAT_PRESETS, SELF, HatTrainSettings
from offline.training.hllm.settings import PRESETS, TrainSettings

app = typer.Typer(add_completion=False, help=__doc__)
_MASKS = "Masks"


class StageName(StrEnum):
    """Which stages are run."""

    AUTO = "auto"
    ONE = "1"
    TWO = "2"
    BOTH = "both"


class ItemInput(StrEnum):
    """What an item is known by."""

    TEXT = "text"
    ID = "id"


class Pooling(StrEnum):
    """How states of a text become one."""

    ITEM_TOKEN = "item_token"
    MEAN = "mean"


class Objective(StrEnum):
    """What a HatLLM is trained for."""

    RETRIEVE = "retrieve"
    GENERATE = "generate"
    BOTH = "both"


class ItemEnd(StrEnum):
    """What ends an item in a history."""

    TITLE = "title"
    QUOTE = "quote"
    END_TOKEN = "end_token"


class CrKeys(StrEnum):
    """What the CR band shows of other items."""

    LAST = "last"
    ALL = "all"


@app.callback()
def _kinds() -> None:
    """Train a model and add it to the store."""


@app.command()
def hllm(
    data: common.Data,
    store: common.Store,
    preset: Annotated[str, typer.Option(help=" | ".join(PRESETS), rich_help_panel=WHAT)] = "small",
    stage: Annotated[
        StageName,
        typer.Option(help="1: end to end, 2: the User LLM on stored embeddings.", rich_help_panel=WHAT),
    ] = StageName.AUTO,
    split: common.Split = SplitName.LEAVE_ONE_OUT,
    hold_out_items: common.HoldOutItems = 0.0,
    item_llm: Annotated[
        str | None, typer.Option(help="Directory or hub id; from scratch if absent.", rich_help_panel=MODEL)
    ] = None,
    user_llm: Annotated[
        str | None, typer.Option(help="Directory or hub id; from scratch if absent.", rich_help_panel=MODEL)
    ] = None,
    item_input: Annotated[
        ItemInput, typer.Option(help="id: the ID twin, without text.", rich_help_panel=MODEL)
    ] = ItemInput.TEXT,
    freeze_item_llm: Annotated[
        bool,
        typer.Option("--freeze-item-llm", help="In stage 1; stage 2 always does.", rich_help_panel=MODEL),
    ] = False,
    whiten_power: Annotated[
        float | None,
        typer.Option(help="Whiten text embeddings: 0 not, 1 fully; negative: no joint.", rich_help_panel=MODEL),
    ] = None,
    whiten_rms: Annotated[float, typer.Option(help="Their size afterwards.", rich_help_panel=MODEL)] = 0.1,
    train_joint: Annotated[bool, typer.Option("--train-joint", help="In stage 2 too.", rich_help_panel=MODEL)] = False,
    item_vectors: Annotated[bool, typer.Option("--item-vectors/--no-item-vectors", rich_help_panel=MODEL)] = True,
    time_features: Annotated[bool, typer.Option("--time-features", rich_help_panel=MODEL)] = False,
    max_history_length: common.MaxHistoryLength = None,
    lora_r: Annotated[
        int, typer.Option(help="Rank of adapters on the Item LLM; 0: full training.", rich_help_panel=MODEL)
    ] = 0,
    lora_alpha: Annotated[int, typer.Option(rich_help_panel=MODEL)] = 16,
    lora_dropout: Annotated[float, typer.Option(rich_help_panel=MODEL)] = 0.0,
    lora_user: Annotated[
        bool, typer.Option("--lora-user", help="Adapters on the User LLM too.", rich_help_panel=MODEL)
    ] = False,
    text_field: Annotated[
        list[str] | None, typer.Option(help="Repeatable; all if absent.", rich_help_panel=TEXT)
    ] = None,
    item_prompt: Annotated[
        str | None, typer.Option(help="The paper's for a decoder if absent.", rich_help_panel=TEXT)
    ] = None,
    max_text_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=TEXT)] = 256,
    pooling: Annotated[Pooling | None, typer.Option(rich_help_panel=TEXT)] = None,
    negatives: Annotated[str | None, typer.Option(help="A number, or all (stage 2).", rich_help_panel=LOSS)] = None,
    false_negative_cosine: common.FalseNegativeCosine = 0.99,
    epochs: common.Epochs = None,
    batch_size: common.BatchSize = None,
    learning_rate: common.LearningRate = None,
    weight_decay: common.WeightDecay = None,
    dropout: common.Dropout = None,
    schedule: common.Schedule = None,
    max_gradient_norm: common.MaxGradientNorm = 1.0,
    patience: common.Patience = None,
    seed: common.Seed = 0,
    max_minutes: common.MaxMinutes = None,
    gradient_checkpointing: common.GradientCheckpointing = False,
    precision: common.Precision = common.PrecisionName.AUTO,
    checkpoint_seconds: common.CheckpointSeconds = 60.0,
    validation_cases: common.ValidationCases = None,
    device: common.Device = common.DeviceName.AUTO,
) -> None:
    """Train an HLLM: an Item LLM that embeds texts and a User LLM that reads those embeddings."""
    settings = TrainSettings(**common.plain(locals()))
    # the training libraries take seconds to import, which --help need not wait for
    from offline.training.hllm.run import train_hllm

    _train_and_report(lambda: train_hllm(settings))


@app.command()
def hatllm(
    data: common.Data,
    store: common.Store,
    preset: Annotated[str, typer.Option(help=" | ".join(HAT_PRESETS), rich_help_panel=WHAT)] = "small",
    objective: Annotated[
        Objective,
        typer.Option(help="Find the next item by cosine, write its title, or both.", rich_help_panel=WHAT),
    ] = Objective.RETRIEVE,
    split: common.Split = SplitName.LEAVE_ONE_OUT,
    hold_out_items: common.HoldOutItems = 0.0,
    backbone: Annotated[
        str | None,
        typer.Option(help="A decoder: directory or hub id; from scratch if absent.", rich_help_panel=MODEL),
    ] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="The backbone's shape, random weights.", rich_help_panel=MODEL)
    ] = False,
    num_layers: Annotated[
        int | None, typer.Option(help="Another depth, at random weights.", rich_help_panel=MODEL)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="All weights of a pre-trained backbone, no LoRA.", rich_help_panel=MODEL)
    ] = False,
    lora_r: Annotated[int, typer.Option(help="Rank of adapters.", rich_help_panel=MODEL)] = 8,
    lora_alpha: Annotated[int, typer.Option(rich_help_panel=MODEL)] = 16,
    lora_dropout: Annotated[float, typer.Option(rich_help_panel=MODEL)] = 0.05,
    lora_targets: Annotated[
        str, typer.Option(help="Names, by commas; or all.", rich_help_panel=MODEL)
    ] = "q_proj,v_proj",
    item_tower: Annotated[
        str, typer.Option(help="self, or an HLLM whose item embeddings are the targets.", rich_help_panel=MODEL)
    ] = SELF,
    item_vectors: Annotated[
        bool | None,
        typer.Option(
            "--item-vectors/--no-item-vectors", help="On, unless an HLLM embeds the items.", rich_help_panel=MODEL
        ),
    ] = None,
    embedding_dim: Annotated[int | None, typer.Option(help="D; the width if absent.", rich_help_panel=MODEL)] = None,
    max_history_length: common.MaxHistoryLength = None,
    in_band: Annotated[
        float, typer.Option(help="First layers: a number, or a fraction below 1.", rich_help_panel=_MASKS)
    ] = 0.25,
    cr_band: Annotated[float, typer.Option(help="Last layers, likewise.", rich_help_panel=_MASKS)] = 0.5,
    no_masks: Annotated[bool, typer.Option("--no-masks", help="Every layer plain.", rich_help_panel=_MASKS)] = False,
    band_order: Annotated[str, typer.Option(rich_help_panel=_MASKS)] = "in,or,cr",
    cr_keys: Annotated[
        CrKeys, typer.Option(help="Of other items: the last token, or all.", rich_help_panel=_MASKS)
    ] = CrKeys.LAST,
    nonitem_visible_in: Annotated[bool, typer.Option(rich_help_panel=_MASKS)] = False,
    nonitem_visible_cr: Annotated[bool, typer.Option(rich_help_panel=_MASKS)] = True,
    self_visible_cr: Annotated[bool, typer.Option(rich_help_panel=_MASKS)] = True,
    target_as_item: Annotated[bool, typer.Option(rich_help_panel=_MASKS)] = True,
    text_field: Annotated[
        list[str] | None, typer.Option(help="Repeatable; the title if absent.", rich_help_panel=TEXT)
    ] = None,
    item_end: Annotated[
        ItemEnd, typer.Option(help="What ends an item, which is its last token.", rich_help_panel=TEXT)
    ] = ItemEnd.END_TOKEN,
    prompt: Annotated[str, typer.Option(help="Before the history; costs the fast path.", rich_help_panel=TEXT)] = "",
    max_item_tokens: Annotated[int | None, typer.Option(help="Longer titles are cut.", rich_help_panel=TEXT)] = None,
    generate_weight: Annotated[float, typer.Option(help="Of its loss, beside retrieval.", rich_help_panel=LOSS)] = 1.0,
    negatives: Annotated[
        str | None, typer.Option(help="A number, or all (with an HLLM's items).", rich_help_panel=LOSS)
    ] = None,
    false_negative_cosine: common.FalseNegativeCosine = 1.0,
    epochs: common.Epochs = None,
    batch_size: common.BatchSize = None,
    learning_rate: common.LearningRate = None,
    weight_decay: common.WeightDecay = None,
    dropout: common.Dropout = None,
    schedule: common.Schedule = None,
    max_gradient_norm: common.MaxGradientNorm = 1.0,
    patience: common.Patience = None,
    seed: common.Seed = 0,
    max_minutes: common.MaxMinutes = None,
    gradient_checkpointing: common.GradientCheckpointing = False,
    precision: common.Precision = common.PrecisionName.AUTO,
    checkpoint_seconds: common.CheckpointSeconds = 60.0,
    validation_cases: common.ValidationCases = None,
    device: common.Device = common.DeviceName.AUTO,
) -> None:
    """Train a HatLLM: one language model over the titles of a history, masked by item in bands of layers."""
    settings = hatllm_settings(locals())
    from offline.training.hatllm.run import train_hatllm

    _train_and_report(lambda: train_hatllm(settings))


def hatllm_settings(options: dict[str, Any]) -> HatTrainSettings:
    """The settings that the command's options say.

    Raises:
        InvalidInput: A value is not allowed.
    """
    values = common.plain(options)
    targets = tuple(name for name in values.pop("lora_targets").split(",") if name != "all")
    return HatTrainSettings(**values, lora_targets=targets)


def _train_and_report(train: Callable[[], ModelManifest]) -> None:
    """Trains, and prints the job's JSON line in the first process."""
    from accelerate import PartialState

    manifest = train()
    if PartialState().is_main_process:
        job.report(
            {
                "model_id": manifest.model_id,
                "kind": manifest.kind,
                "metrics": manifest.metrics,
                "seconds": round(manifest.metrics["training_seconds"], 1),
                "stages": manifest.training["stages"],
            }
        )


if __name__ == "__main__":
    job.run(app)
