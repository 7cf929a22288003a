"""Turns a checkpoint that HLLM's authors released (a pickle) into a model of the store.

``python -m offline.convert_checkpoint pytorch_model.bin --item-llm TINYLLAMA --store STORE``, where TINYLLAMA is a
directory with that model's configuration and tokenizer.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.hllm.files import item_tower_hash, read_config, save_hllm
from model_store.hllm.network import KIND
from model_store.hllm.released_checkpoint import Conversion, convert_checkpoint
from offline.job import job

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="pytorch_model.bin, or a directory with it.")],
    item_llm: Annotated[Path, typer.Option(help="Hugging Face directory: configuration and tokenizer.")],
    user_llm: Annotated[Path | None, typer.Option(help="The User LLM's, if another.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer's directory, if another.")] = None,
    store: Annotated[str | None, typer.Option(help="Model store to add the model to.")] = None,
    out: Annotated[Path | None, typer.Option(help="Or: a directory to write it to.")] = None,
    text_fields: Annotated[str, typer.Option(help="Trained on these, in this order.")] = "title,tag,description",
    max_text_tokens: Annotated[int, typer.Option(min=1)] = 256,
    max_history_length: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Converts a released HLLM checkpoint to safetensors; nothing in the pickle but tensors is read."""
    if (store is None) == (out is None):
        raise InvalidInput("give either --store or --out")
    conversion = Conversion(
        item_llm=item_llm,
        user_llm=user_llm or item_llm,
        tokenizer=tokenizer,
        text_fields=tuple(name.strip() for name in text_fields.split(",") if name.strip()),
        max_text_tokens=max_text_tokens,
        max_history_length=max_history_length,
    )
    started = time.monotonic()
    figures = (
        _write_to_store(checkpoint, conversion, ModelStore(store))
        if store is not None
        else _write_to_directory(checkpoint, conversion, Path(out or ""))
    )
    job.report({**figures, "seconds": round(time.monotonic() - started, 3)})


def _write_to_store(checkpoint: Path, conversion: Conversion, store: ModelStore) -> dict[str, str]:
    with store.staging() as staged:
        _convert(checkpoint, conversion, staged)
        manifest = store.add_model(
            staged,
            kind=KIND,
            embedding_dim=read_config(staged).embedding_dim,
            item_tower_hash=item_tower_hash(staged),
            training={"recipe": "converted", "checkpoint": checkpoint.name},
        )
    return {"model_id": manifest.model_id}


def _write_to_directory(checkpoint: Path, conversion: Conversion, out: Path) -> dict[str, str]:
    if out.exists():
        raise InvalidInput(f"{out} exists already")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staged:
        _convert(checkpoint, conversion, Path(staged) / "model")
        (Path(staged) / "model").rename(out)
    return {"directory": str(out)}


def _convert(checkpoint: Path, conversion: Conversion, directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hatstand-") as scratch:
        save_hllm(convert_checkpoint(checkpoint, conversion, scratch=Path(scratch)), directory)


if __name__ == "__main__":
    job.run(app)
