"""Shows attention: maps of a history token by token, and the share that crosses items by layer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAPS_PER_ROW = 3
_MAX_LABEL = 28
_PANEL_INCHES = 3.4


@dataclass(frozen=True)
class HeatMaps:
    """What is drawn of one history.

    Attributes:
        title: Above everything.
        labels: One per item, oldest first; the empty one is of tokens of no item.
        ends: (L,) int64, for each item the place after its last token.
        bands: Layer to the name of its band.
        masked: Layer to (T, T) attention as the model runs.
        unmasked: The same layers of the same weights without masks.
    """

    title: str
    labels: Sequence[str]
    ends: np.ndarray
    bands: Mapping[int, str]
    masked: Mapping[int, np.ndarray]
    unmasked: Mapping[int, np.ndarray]


def draw_heat_maps(maps: HeatMaps, path: Path) -> None:
    """Draws each layer with its masks and, beside it, without; places that a token cannot see are blank."""
    # here and not above: importing matplotlib takes a second that no other user of this module should pay
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    layers = list(maps.masked)
    num_rows = -(-len(layers) // _MAPS_PER_ROW)
    num_columns = 2 * min(_MAPS_PER_ROW, len(layers))
    size = (_PANEL_INCHES * num_columns + 2.5, _PANEL_INCHES * num_rows + 2.0)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    # a few large weights and many small ones: on a linear scale only the diagonal would show
    norm = PowerNorm(0.4, vmin=0.0, vmax=1.0)
    for axis in axes.flat:
        axis.set_visible(False)
    for number, layer in enumerate(layers):
        row, place = divmod(number, _MAPS_PER_ROW)
        for column, (weights, name) in enumerate(
            ((maps.masked[layer], maps.bands[layer].upper()), (maps.unmasked[layer], "without masks"))
        ):
            axis = axes[row, 2 * place + column]
            image = _draw_map(axis, weights, norm)
            axis.set_title(f"layer {layer}, {name}", fontsize=9)
            is_lowest = number + _MAPS_PER_ROW >= len(layers)
            _mark_items(axis, maps, with_rows=place + column == 0, with_columns=is_lowest)
    figure.colorbar(image, ax=axes, shrink=0.6, label="attention, mean over heads")
    figure.suptitle(_plain(maps.title), parse_math=False)
    _save(figure, path)


def _draw_map(axis: Any, weights: np.ndarray, norm: Any) -> Any:
    axis.set_visible(True)
    visible = np.ma.masked_equal(weights, 0.0)
    return axis.imshow(visible, norm=norm, cmap="viridis_r", interpolation="nearest", aspect="equal")


def _mark_items(axis: Any, maps: HeatMaps, *, with_rows: bool, with_columns: bool) -> None:
    """Draws the borders of the items and writes their titles where they are looked from and looked at."""
    starts = np.concatenate(([0], maps.ends[:-1]))
    for border in maps.ends[:-1]:
        axis.axhline(border - 0.5, color="0.75", linewidth=0.6)
        axis.axvline(border - 0.5, color="0.75", linewidth=0.6)
    centres = (starts + maps.ends - 1) / 2
    labels = [_plain(label)[:_MAX_LABEL] for label in maps.labels]
    style: dict[str, Any] = {"fontsize": 7, "parse_math": False}
    axis.set_yticks(centres, labels if with_rows else [], **(style if with_rows else {}))
    axis.set_xticks(centres, labels if with_columns else [], **({**style, "rotation": 90} if with_columns else {}))
    axis.tick_params(length=0)


def draw_shares(report: Mapping[str, Any], path: Path) -> None:
    """Draws the share of attention that crosses items over the layers, with and without the masks.

    Args:
        report: What ``offline.attention`` reports.
        path: Where to write it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = report["layers"]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    places = [layer["layer"] for layer in layers]
    for name, marker in (("masked", "o"), ("unmasked", "s")):
        label = "with the masks" if name == "masked" else "the same weights without masks"
        shares = [np.nan if (share := layer[name]["cross_item"]) is None else share for layer in layers]
        axis.plot(places, shares, marker=marker, label=label)
    for previous, layer in zip(layers[:-1], layers[1:], strict=True):
        if previous["band"] != layer["band"]:
            axis.axvline(layer["layer"] - 0.5, color="0.7", linestyle=":")
    axis.set_xticks(places, [f"{layer['layer']}\n{layer['band'].upper()}" for layer in layers])
    axis.set(xlabel="layer and band", ylabel="share of attention on other items", ylim=(-0.02, 1.02))
    axis.set_title(f"{report['num_users']} users of {report['dataset']}, {report['model_id']}", parse_math=False)
    axis.legend()
    _save(figure, path)


def format_shares(report: Mapping[str, Any]) -> str:
    """A table of text: one line per layer."""
    header = (
        f"{'':15s}  {'attention on other items':^24s}  {'a pair within / a pair across':^29s}",
        f"{'layer':>5s}  {'band':8s}  {'masked':>11s}  {'unmasked':>11s}  {'masked':>14s}  {'unmasked':>13s}",
    )
    lines = [
        f"{layer['layer']:>5d}  {layer['band']:8s}"
        f"  {_cell(layer['masked'], 'cross_item'):>11s}  {_cell(layer['unmasked'], 'cross_item'):>11s}"
        f"  {_cell(layer['masked'], 'pair_ratio'):>14s}  {_cell(layer['unmasked'], 'pair_ratio'):>13s}"
        for layer in report["layers"]
    ]
    return "\n".join((*header, *lines))


def _cell(figures: Mapping[str, Any], name: str) -> str:
    return "-" if figures[name] is None else f"{figures[name]:.4g}"


def _plain(text: str) -> str:
    """One line of printable characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        # a title may be in any script; a box for a letter is no reason to fail or to fill the log
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support", category=UserWarning)
        figure.savefig(path, dpi=120)
