"""HatLLM's exact fast forward against the masked dense forward of the same random weights.

For one user, and for a batch of users of mixed lengths, alternating in one process:

- *dense*: all tokens of the history through all layers, each with its mask, by the library's model code. A batch is
  run both padded and one user after the other; the faster of the two is what the fast forward is compared with;
- *cold*: the service's own encoder, nothing kept of the user;
- *warm*: the same encoder, the user's state kept, one new item;
- *floor*: the bare matrix products that the cold forward cannot do without: OR over tokens, CR over items, of the
  last layer of a band only the keys and values.

``max_abs_diff`` is over the raw final states of all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from transformers import AutoModel, LlamaConfig

from model_store.backbone.layered_attention import LAYERED, register_layered_attention
from model_store.backbone.load import Backbone, train_tokenizer
from model_store.catalogue.item_states import ItemTokens
from model_store.hatllm.config import HatLLMConfig
from model_store.hatllm.files import save_hatllm
from model_store.hatllm.masks import resolve_bands
from model_store.hatllm.network import HatLLM, build_hatllm
from model_store.hatllm.user_encoder import HatLLMUserEncoder
from model_store.people.histories import History
from offline.job import job

_NUM_ITEMS = 500
_VOCABULARY = 300
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Shape:
    """What is measured.

    Attributes:
        items: Length of a history.
        tokens_per_item: Its end token included.
        layers: Depth.
        in_layers: Of them IN.
        cr_layers: Of them CR.
        width: H.
        heads: Attention heads.
        users: Of the batch; their lengths are spread evenly from a tenth of ``items`` to all.
    """

    items: int
    tokens_per_item: int
    layers: int
    in_layers: int
    cr_layers: int
    width: int
    heads: int
    users: int


@dataclass(frozen=True)
class Items:
    """Made items of equal length; what the encoder needs of a bundle."""

    model_directory: Path
    item_tokens: ItemTokens
    item_states: torch.Tensor


@dataclass
class Timings:
    """Seconds of each contestant, a round after the other."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """Times one call."""
        started = time.perf_counter()
        result = work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def median_ms(self, name: str) -> float:
        """Of all rounds."""
        return statistics.median(self.seconds[name]) * 1_000


def make_model(shape: Shape) -> HatLLM:
    """Random weights of the wanted shape."""
    register_layered_attention()
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["red shoe, blue hat"], vocab_size=_VOCABULARY)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=-(-8 * shape.width // 3) // 32 * 32,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=max(2048, shape.items * shape.tokens_per_item),
    )
    backbone = Backbone(AutoModel.from_config(config, attn_implementation=LAYERED), tokenizer, shape.width)
    settings = HatLLMConfig(
        embedding_dim=shape.width,
        in_layers=shape.in_layers,
        cr_layers=shape.cr_layers,
        max_item_tokens=shape.tokens_per_item,
        max_history_length=shape.items,
    )
    return build_hatllm(config=settings, backbone=backbone).eval()


@torch.no_grad()
def make_items(model: HatLLM, shape: Shape, directory: Path) -> Items:
    """Random tokens and their states after IN."""
    save_hatllm(model, directory)
    token_ids = torch.randint(3, _VOCABULARY, (_NUM_ITEMS, shape.tokens_per_item))
    encoded = model.item_tokenizer.collate(token_ids.tolist())
    offsets = np.arange(_NUM_ITEMS + 1) * shape.tokens_per_item
    tokens = ItemTokens(token_ids.flatten().to(torch.int32).numpy(), offsets)
    return Items(directory, tokens, model.item_states(encoded).flatten(0, 1))


@dataclass
class Contest:
    """The contestants over the same histories."""

    model: HatLLM
    items: Items
    encoder: HatLLMUserEncoder
    histories: list[np.ndarray]
    timings: Timings = field(default_factory=Timings)
    max_abs_diff: float = 0.0

    def round(self) -> None:
        """Each contestant once, on the same work."""
        one_by_one = self.timings.measure("dense_one_by_one", lambda: [self._dense([one]) for one in self.histories])
        dense = torch.cat(one_by_one)
        if len(self.histories) > 1:
            self._compare(dense, self.timings.measure("dense_padded", lambda: self._dense(self.histories)))
        self.timings.measure("cold", lambda: self._encode(self.histories, is_kept=False))
        self._compare(dense, self._finals(self.histories, is_kept=False))
        self._encode([history[:-1] for history in self.histories], is_kept=True)
        self.timings.measure("warm", lambda: self._encode(self.histories, is_kept=True))
        self._compare(dense, self._finals(self.histories, is_kept=True))
        self.timings.measure("floor", self._floor())

    def figures(self) -> dict[str, float]:
        """Medians in ms and ratios of medians."""
        medians = {name: self.timings.median_ms(name) for name in self.timings.seconds}
        dense = min(value for name, value in medians.items() if name.startswith("dense"))
        return {
            "max_abs_diff": self.max_abs_diff,
            "cold_speedup": round(dense / medians["cold"], 2),
            "warm_speedup": round(dense / medians["warm"], 2),
            "cold_ratio_to_floor": round(medians["floor"] / medians["cold"], 3),
            **{f"{name}_ms": round(value, 3) for name, value in medians.items()},
        }

    @torch.no_grad()
    def _dense(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, H) final states at the last tokens."""
        places = torch.full((len(histories), max(map(len, histories))), -1)
        distinct, inverse = np.unique(np.concatenate(histories), return_inverse=True)
        start = 0
        for row, history in enumerate(histories):
            places[row, : len(history)] = torch.from_numpy(inverse[start : start + len(history)])
            start += len(history)
        tokens = self.model.item_tokenizer.collate(self.items.item_tokens.tokens_of(distinct))
        windows = self.model.lay_out(tokens, places)
        states = self.model.dense_states(*self.model.dense_inputs(tokens, windows))
        return states[torch.arange(len(states)), windows.last.amax(dim=1)]

    def _named(self, histories: Sequence[np.ndarray], *, is_kept: bool) -> list[History]:
        return [
            History(history, np.zeros_like(history), str(row) if is_kept else None)
            for row, history in enumerate(histories)
        ]

    def _encode(self, histories: Sequence[np.ndarray], *, is_kept: bool) -> np.ndarray:
        return self.encoder.encode(self._named(histories, is_kept=is_kept))

    def _finals(self, histories: Sequence[np.ndarray], *, is_kept: bool) -> torch.Tensor:
        finals = []
        for history in self._named(histories, is_kept=is_kept):
            with self.encoder.state_of(history) as state:
                assert state.final is not None
                finals.append(state.final.clone())
        return torch.stack(finals)

    def _compare(self, dense: torch.Tensor, fast: torch.Tensor) -> None:
        self.max_abs_diff = max(self.max_abs_diff, float((dense - fast).abs().max()))

    def _floor(self) -> Callable[[], None]:
        """The products of the cold forward, on inputs that are there already."""
        num_items = sum(map(len, self.histories))
        num_tokens = sum(int(self.items.item_tokens.lengths(history).sum()) for history in self.histories)
        work: list[tuple[nn.Linear, torch.Tensor]] = []
        bands = ((self.model.or_layers, num_tokens, num_items), (self.model.cr_layers, num_items, len(self.histories)))
        decoder: Any = self.model.layers.model
        inputs: dict[tuple[int, int], torch.Tensor] = {}
        for layers, num_rows, num_needed in bands:
            for layer in layers:
                for name, linear in decoder.layers[layer].named_modules():
                    if isinstance(linear, nn.Linear):
                        shows_others = name.endswith(("k_proj", "v_proj"))
                        rows = num_rows if layer != layers[-1] or shows_others else num_needed
                        shape = (rows, linear.in_features)
                        work.append((linear, inputs.setdefault(shape, torch.randn(shape))))

        @torch.no_grad()
        def run() -> None:
            for linear, rows in work:
                linear(rows)

        return run


def contest(shape: Shape, model: HatLLM, items: Items, lengths: Sequence[int], *, rounds: int) -> dict[str, float]:
    """Measures one workload."""
    generator = np.random.default_rng(0)
    histories = [generator.integers(1, _NUM_ITEMS + 1, length) for length in lengths]
    device, dtype = torch.device("cpu"), torch.float32
    encoder = HatLLMUserEncoder(items, device, dtype, state_bytes=1 << 33)
    ring = Contest(model, items, encoder, histories)
    ring.round()  # warms up
    ring.timings = Timings()
    for _ in range(rounds):
        ring.round()
    return ring.figures() | {"tokens": int(sum(lengths)) * shape.tokens_per_item}


@app.command()
def main(
    items: Annotated[int, typer.Option(min=2, help="Items of a history.")] = 50,
    tokens_per_item: Annotated[int, typer.Option(min=2, help="Tokens of an item.")] = 12,
    layers: Annotated[int, typer.Option(min=1, help="Depth.")] = 16,
    in_band: Annotated[float, typer.Option(help="IN layers, or a fraction of the depth.")] = 4,
    cr_band: Annotated[float, typer.Option(help="CR layers, or a fraction of the depth.")] = 8,
    width: Annotated[int, typer.Option(min=8, help="Of the states.")] = 512,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 8,
    users: Annotated[int, typer.Option(min=1, help="Users of the batch.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Of one user; the batch gets a third.")] = 9,
    as_json: Annotated[bool, typer.Option("--json", help="Kept for symmetry: the result is always JSON.")] = True,  # noqa: ARG001
) -> None:
    """Measures the fast forward."""
    in_layers, cr_layers = resolve_bands(layers, in_band, cr_band)
    shape = Shape(items, tokens_per_item, layers, in_layers, cr_layers, width, heads, users)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(shape)
        made = make_items(model, shape, Path(folder) / "model")
        one = contest(shape, model, made, [items], rounds=rounds)
        lengths = np.linspace(max(2, items // 10), items, users).round().astype(int).tolist()
        batch = contest(shape, model, made, lengths, rounds=max(1, rounds // 3))
    job.report({**one, "batch": batch, "shape": shape.__dict__, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    job.run(app)
