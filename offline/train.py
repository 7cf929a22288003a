"""Trains a model and adds it to the store; one subcommand per kind of model.

A run that was killed goes on from its last checkpoint when the same command is given again. Several
processes: ``torchrun --nproc-per-node 2 -m offline.train hllm ...``.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from offline import job
from offline.training.settings import PRESETS, TrainSettings

app = typer.Typer(add_completion=False, help=__doc__)


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


class SplitName(StrEnum):
    """How interactions are divided into training, validation and test."""

    LEAVE_ONE_OUT = "leave-one-out"
    TEMPORAL = "temporal"


class Schedule(StrEnum):
    """Of the learning rate after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"


class Precision(StrEnum):
    """Of activations in training."""

    AUTO = "auto"
    BF16 = "bf16"
    FLOAT32 = "float32"


class Device(StrEnum):
    """Where training runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_WHAT, _MODEL, _TEXT, _LOSS, _OPTIMISER, _RUN = "What", "Model", "Text", "Loss", "Optimiser", "Run"


@app.callback()
def _kinds() -> None:
    """Train a model and add it to the store."""
    # with a callback, a lone subcommand keeps its name on the command line


@app.command()
def hllm(
    data: Annotated[Path, typer.Option(help="A dataset directory.", rich_help_panel=_WHAT)],
    store: Annotated[str, typer.Option(help="Path or URL of the model store.", rich_help_panel=_WHAT)],
    preset: Annotated[str, typer.Option(help=" | ".join(PRESETS), rich_help_panel=_WHAT)] = "small",
    stage: Annotated[
        StageName,
        typer.Option(help="1: end to end, 2: the User LLM on stored embeddings.", rich_help_panel=_WHAT),
    ] = StageName.AUTO,
    split: Annotated[SplitName, typer.Option(rich_help_panel=_WHAT)] = SplitName.LEAVE_ONE_OUT,
    hold_out_items: Annotated[
        float, typer.Option(help="Fraction of items that training must not see.", rich_help_panel=_WHAT)
    ] = 0.0,
    item_llm: Annotated[
        str | None, typer.Option(help="Directory or hub id; from scratch if absent.", rich_help_panel=_MODEL)
    ] = None,
    user_llm: Annotated[
        str | None, typer.Option(help="Directory or hub id; from scratch if absent.", rich_help_panel=_MODEL)
    ] = None,
    item_input: Annotated[
        ItemInput, typer.Option(help="id: the ID twin, without text.", rich_help_panel=_MODEL)
    ] = ItemInput.TEXT,
    freeze_item_llm: Annotated[
        bool,
        typer.Option("--freeze-item-llm", help="In stage 1; stage 2 always does.", rich_help_panel=_MODEL),
    ] = False,
    whiten_power: Annotated[
        float | None,
        typer.Option(help="Whiten text embeddings: 0 not, 1 fully; negative: no joint.", rich_help_panel=_MODEL),
    ] = None,
    whiten_rms: Annotated[float, typer.Option(help="Their size afterwards.", rich_help_panel=_MODEL)] = 0.1,
    train_joint: Annotated[bool, typer.Option("--train-joint", help="In stage 2 too.", rich_help_panel=_MODEL)] = False,
    item_vectors: Annotated[bool, typer.Option("--item-vectors/--no-item-vectors", rich_help_panel=_MODEL)] = True,
    time_features: Annotated[bool, typer.Option("--time-features", rich_help_panel=_MODEL)] = False,
    max_history_length: Annotated[int | None, typer.Option(rich_help_panel=_MODEL)] = None,
    lora_r: Annotated[
        int, typer.Option(help="Rank of adapters on the Item LLM; 0: full training.", rich_help_panel=_MODEL)
    ] = 0,
    lora_alpha: Annotated[int, typer.Option(rich_help_panel=_MODEL)] = 16,
    lora_dropout: Annotated[float, typer.Option(rich_help_panel=_MODEL)] = 0.0,
    lora_user: Annotated[
        bool, typer.Option("--lora-user", help="Adapters on the User LLM too.", rich_help_panel=_MODEL)
    ] = False,
    text_field: Annotated[
        list[str] | None, typer.Option(help="Repeatable; all if absent.", rich_help_panel=_TEXT)
    ] = None,
    item_prompt: Annotated[
        str | None, typer.Option(help="The paper's for a decoder if absent.", rich_help_panel=_TEXT)
    ] = None,
    max_text_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=_TEXT)] = 256,
    pooling: Annotated[Pooling | None, typer.Option(rich_help_panel=_TEXT)] = None,
    negatives: Annotated[str | None, typer.Option(help="A number, or all (stage 2).", rich_help_panel=_LOSS)] = None,
    false_negative_cosine: Annotated[float, typer.Option(rich_help_panel=_LOSS)] = 0.99,
    epochs: Annotated[int | None, typer.Option(rich_help_panel=_OPTIMISER)] = None,
    batch_size: Annotated[int | None, typer.Option(rich_help_panel=_OPTIMISER)] = None,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=_OPTIMISER)] = None,
    weight_decay: Annotated[float | None, typer.Option(rich_help_panel=_OPTIMISER)] = None,
    dropout: Annotated[float | None, typer.Option(rich_help_panel=_OPTIMISER)] = None,
    schedule: Annotated[Schedule | None, typer.Option(rich_help_panel=_OPTIMISER)] = None,
    max_gradient_norm: Annotated[float, typer.Option(rich_help_panel=_OPTIMISER)] = 1.0,
    patience: Annotated[
        int | None,
        typer.Option(help="Evaluations without progress before an early stop.", rich_help_panel=_OPTIMISER),
    ] = None,
    seed: Annotated[int, typer.Option(rich_help_panel=_RUN)] = 0,
    max_minutes: Annotated[float | None, typer.Option(help="Of each stage.", rich_help_panel=_RUN)] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=_RUN)
    ] = False,
    precision: Annotated[Precision, typer.Option(rich_help_panel=_RUN)] = Precision.AUTO,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="What a killed run loses at most.", rich_help_panel=_RUN)
    ] = 60.0,
    validation_cases: Annotated[
        int | None, typer.Option(help="Evaluate on a part during training.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[Device, typer.Option(rich_help_panel=_RUN)] = Device.AUTO,
) -> None:
    """Train an HLLM: an Item LLM that embeds texts and a User LLM that reads those embeddings."""
    options: dict[str, Any] = dict(locals())
    options["text_fields"] = tuple(options.pop("text_field") or ())
    plain: dict[str, Any] = {
        name: value.value if isinstance(value, StrEnum) else value for name, value in options.items()
    }
    train_and_report(TrainSettings(**plain))


def train_and_report(settings: TrainSettings) -> None:
    """Trains, and prints the job's JSON line in the first process."""
    # the training libraries take seconds to import, which --help need not wait for
    from accelerate import PartialState

    from offline.training.hllm_run import train_hllm

    manifest = train_hllm(settings)
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
