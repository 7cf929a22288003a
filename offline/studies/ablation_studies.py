"""The ablations of HatLLM: what each study varies, and which configurations that comes to."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model_store.errors import InvalidInput
from model_store.hatllm.masks import BANDS, layer_bands, resolve_bands
from offline.training.hatllm.settings import HatTrainSettings

# the default order first: the first one that comes to the same layers stands for them
ORDERS = tuple(itertools.permutations(BANDS))
FULL = "full"
ALL_STUDIES = "all"


@dataclass(frozen=True)
class Study:
    """One thing that is varied while everything else stays as it is.

    Attributes:
        name: As ``--study`` has it.
        title: What is varied, in words.
        values: From the settings and the depth of the model, what is tried unless told otherwise.
        apply: The settings with one of the values; InvalidInput if it is none.
        needs: Why the settings cannot be studied, or an empty string.
    """

    name: str
    title: str
    values: Callable[[HatTrainSettings, int], list[str]]
    apply: Callable[[HatTrainSettings, str], HatTrainSettings]
    needs: Callable[[HatTrainSettings], str] = lambda _: ""


@dataclass(frozen=True)
class Variant:
    """One row of a study's table.

    Attributes:
        study: Its name.
        value: What was varied.
        settings: Normalised, with the seed of the base.
        is_base: Whether these are the settings that the study started from.
    """

    study: str
    value: str
    settings: HatTrainSettings
    is_base: bool


def normalised(settings: HatTrainSettings, num_layers: int) -> HatTrainSettings:
    """The settings by which the same network always goes: settings that differ in words only become equal.

    Args:
        settings: Of a run.
        num_layers: Depth of its model.

    Raises:
        InvalidInput: The bands are deeper than the model.
    """
    counts = resolve_bands(num_layers, settings.in_band, settings.cr_band)
    in_layers, cr_layers = (0, 0) if settings.no_masks else counts
    order: Any = settings.order
    bands = layer_bands(num_layers, in_layers=in_layers, cr_layers=cr_layers, order=order)
    same = next(
        one for one in ORDERS if layer_bands(num_layers, in_layers=in_layers, cr_layers=cr_layers, order=one) == bands
    )
    return replace(
        settings,
        in_band=float(in_layers),
        cr_band=float(cr_layers),
        no_masks=False,
        band_order=",".join(same),
        cr_keys=settings.cr_keys if cr_layers else "last",
        full=settings.full and not settings.is_random,
    )


def variants(
    names: Sequence[str], base: HatTrainSettings, num_layers: int, *, values: Sequence[str] = ()
) -> tuple[list[Variant], dict[str, str]]:
    """All rows of some studies.

    Args:
        names: Of the studies; ``all`` stands for those that the settings can be studied by.
        base: What they start from.
        num_layers: Depth of the model.
        values: Instead of the study's own; of one study only.

    Returns:
        The rows, study by study, and the studies of ``all`` that were left out with the reason.

    Raises:
        InvalidInput: An unknown study or value, or a study that has no meaning with these settings.
    """
    if unknown := [name for name in names if name not in (*STUDIES, ALL_STUDIES)]:
        raise InvalidInput(f"--study {unknown[0]!r}: expected one of {', '.join((*STUDIES, ALL_STUDIES))}")
    chosen = list(STUDIES) if ALL_STUDIES in names else list(dict.fromkeys(names))
    if values and len(chosen) != 1:
        raise InvalidInput(f"--values are of one study, and --study names {len(chosen)}")
    base = normalised(base, num_layers)
    left_out = {name: reason for name in chosen if (reason := STUDIES[name].needs(base))}
    if left_out and ALL_STUDIES not in names:
        name, reason = next(iter(left_out.items()))
        raise InvalidInput(f"--study {name}: {reason}")
    rows = []
    for name in (name for name in chosen if name not in left_out):
        for value in dict.fromkeys(values or STUDIES[name].values(base, num_layers)):
            settings = normalised(STUDIES[name].apply(base, value), num_layers)
            rows.append(Variant(name, value, settings, is_base=settings == base))
    return rows, left_out


def _count(value: str, option: str) -> float:
    if not value.isdigit():
        raise InvalidInput(f"--values {value!r}: expected numbers of {option} layers")
    return float(value)


def _in_counts(base: HatTrainSettings, num_layers: int) -> list[str]:
    counts = {0, 1, num_layers // 8, num_layers // 4, num_layers // 2, int(base.in_band)}
    return [str(count) for count in sorted(counts) if count + base.cr_band <= num_layers]


def _cr_counts(base: HatTrainSettings, num_layers: int) -> list[str]:
    counts = {0, 1, num_layers // 4, num_layers // 2, 3 * num_layers // 4, int(base.cr_band)}
    return [str(count) for count in sorted(counts) if count + base.in_band <= num_layers]


def _with_order(base: HatTrainSettings, value: str) -> HatTrainSettings:
    order = tuple(value.split("-"))
    if order not in ORDERS:
        raise InvalidInput(f"--values {value!r}: expected orders such as in-or-cr")
    return replace(base, band_order=",".join(order))


def _with_cr_keys(base: HatTrainSettings, value: str) -> HatTrainSettings:
    keys: Any = value
    if value not in ("last", "all"):
        raise InvalidInput(f"--values {value!r}: expected last or all")
    return replace(base, cr_keys=keys)


def _with_masks(base: HatTrainSettings, value: str) -> HatTrainSettings:
    if value not in ("masks", "none"):
        raise InvalidInput(f"--values {value!r}: expected masks or none")
    return replace(base, no_masks=value == "none")


def _with_adapters(base: HatTrainSettings, value: str) -> HatTrainSettings:
    if value == FULL:
        return replace(base, full=True)
    if not value.isdigit():
        raise InvalidInput(f"--values {value!r}: expected ranks of adapters, or {FULL}")
    return replace(base, full=False, lora_r=int(value))


def _without_bands(base: HatTrainSettings) -> str:
    return "" if base.in_band or base.cr_band else "there are no masks to vary; expected --in-band or --cr-band above 0"


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="in-layers",
            title="number of IN layers",
            values=_in_counts,
            apply=lambda base, value: replace(base, in_band=_count(value, "IN")),
        ),
        Study(
            name="cr-layers",
            title="number of CR layers",
            values=_cr_counts,
            apply=lambda base, value: replace(base, cr_band=_count(value, "CR")),
        ),
        Study(
            name="order",
            title="order of the bands",
            values=lambda *_: ["-".join(order) for order in ORDERS],
            apply=_with_order,
            needs=_without_bands,
        ),
        Study(
            name="cr-keys",
            title="what the CR band shows of other items",
            values=lambda *_: ["last", "all"],
            apply=_with_cr_keys,
            needs=lambda base: "" if base.cr_band else "there is no CR band; expected --cr-band above 0",
        ),
        Study(
            name="masks",
            title="masks, or the same network without",
            values=lambda *_: ["masks", "none"],
            apply=_with_masks,
            needs=_without_bands,
        ),
        Study(
            name="lora",
            title="adapters of some rank, or all weights",
            values=lambda base, _: [str(base.lora_r), FULL],
            apply=_with_adapters,
            needs=lambda base: (
                "adapters need pre-trained weights under them; expected --backbone" if base.is_random else ""
            ),
        ),
    )
}
