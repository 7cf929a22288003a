"""The options that the training commands of all kinds of model share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from offline.dataset.splits import SplitName

WHAT, MODEL, TEXT, LOSS, OPTIMISER, RUN = "What", "Model", "Text", "Loss", "Optimiser", "Run"


class ScheduleName(StrEnum):
    """Of the learning rate after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"


class PrecisionName(StrEnum):
    """Of activations in training."""

    AUTO = "auto"
    BF16 = "bf16"
    FLOAT32 = "float32"


class DeviceName(StrEnum):
    """Where training runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data = Annotated[Path, typer.Option(help="A dataset directory.", rich_help_panel=WHAT)]
Store = Annotated[str, typer.Option(help="Path or URL of the model store.", rich_help_panel=WHAT)]
Split = Annotated[SplitName, typer.Option(rich_help_panel=WHAT)]
HoldOutItems = Annotated[
    float, typer.Option(help="Fraction of items that training must not see.", rich_help_panel=WHAT)
]
MaxHistoryLength = Annotated[int | None, typer.Option(rich_help_panel=MODEL)]
FalseNegativeCosine = Annotated[float, typer.Option(rich_help_panel=LOSS)]
Epochs = Annotated[int | None, typer.Option(rich_help_panel=OPTIMISER)]
BatchSize = Annotated[int | None, typer.Option(rich_help_panel=OPTIMISER)]
LearningRate = Annotated[float | None, typer.Option(rich_help_panel=OPTIMISER)]
WeightDecay = Annotated[float | None, typer.Option(rich_help_panel=OPTIMISER)]
Dropout = Annotated[float | None, typer.Option(rich_help_panel=OPTIMISER)]
Schedule = Annotated[ScheduleName | None, typer.Option(rich_help_panel=OPTIMISER)]
MaxGradientNorm = Annotated[float, typer.Option(rich_help_panel=OPTIMISER)]
Patience = Annotated[
    int | None, typer.Option(help="Evaluations without progress before an early stop.", rich_help_panel=OPTIMISER)
]
Seed = Annotated[int, typer.Option(rich_help_panel=RUN)]
MaxMinutes = Annotated[float | None, typer.Option(help="Of each stage.", rich_help_panel=RUN)]
GradientCheckpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=RUN)
]
Precision = Annotated[PrecisionName, typer.Option(rich_help_panel=RUN)]
CheckpointSeconds = Annotated[float, typer.Option(help="What a killed run loses at most.", rich_help_panel=RUN)]
ValidationCases = Annotated[int | None, typer.Option(help="Evaluate on a part during training.", rich_help_panel=RUN)]
Device = Annotated[DeviceName, typer.Option(rich_help_panel=RUN)]


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """A command's local variables as settings: enumerations by value, ``text_field`` as ``text_fields``."""
    values = {name: value.value if isinstance(value, StrEnum) else value for name, value in options.items()}
    text_fields = tuple(values.pop("text_field", None) or ())
    return {**values, "text_fields": text_fields}
