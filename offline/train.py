"""Trains a model and adds it to the store; one subcommand per kind of model.

A run that was killed goes on from its last checkpoint when the same command is given again. Several
processes: ``torchrun --nproc-per-node 2 -m offline.train hllm ...``.
"""

import typer

from offline.job import job
from offline.training.command_options import settings_command
from offline.training.kinds import KINDS
from offline.training.run_settings import RunSettings

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def _kinds() -> None:
    """Train a model and add it to the store."""


def _train_and_report(settings: RunSettings) -> None:
    """Trains, and prints the job's JSON line in the first process."""
    manifest = KINDS[settings.kind].train(settings)
    from accelerate import PartialState

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


for _kind in KINDS.values():
    app.command(help=_kind.help)(settings_command(_kind.settings, _train_and_report))


if __name__ == "__main__":
    job.run(app)
