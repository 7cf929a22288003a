"""What a HatLLM looks at, against shares that can be counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.hatllm.files import item_tower_hash, save_hatllm
from model_store.hatllm.masks import BANDS, MaskOptions, band_mask
from model_store.hatllm.network import HatLLM
from offline.attention import CROSS_ITEM, HEAT_MAPS, REPORT, AttentionSettings, app, look
from offline.dataset.dataset import Dataset
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.writer import WriteOptions, write_dataset
from offline.studies.attention_report import HeatMaps, draw_heat_maps, format_shares
from offline.studies.attention_shares import AttentionShares, HistoryReader, measure_shares
from tests.model_store.hat_models import make_hatllm
from tests.offline.small_models import add_small_model, small_hllm

PNG = b"\x89PNG"
TITLES = ["red shoe", "blue hat number 1", "a $100 hat_no $ 5 \u5e3d\u5b50\n", "red", "", "blue shoe number 7"]
HISTORIES = {"first": "03", "second": "0123012301", "third": "5", "fourth": "4501234"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shop"
    write_dataset(
        out,
        items=[Item(f"i{row}", title, {}) for row, title in enumerate(TITLES)],
        interactions=[
            Interaction(user, f"i{item}", time) for user, items in HISTORIES.items() for time, item in enumerate(items)
        ],
        options=WriteOptions(source="test"),
    )
    return out


def add_model(store: ModelStore, model: HatLLM) -> ModelManifest:
    with store.staging() as staged:
        save_hatllm(model, staged)
        return store.add_model(
            staged, kind="hatllm", embedding_dim=model.config.embedding_dim, item_tower_hash=item_tower_hash(staged)
        )


def looking_evenly(model: HatLLM) -> HatLLM:
    """Every token looks at all that it sees with equal weight."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj" in name:
                parameter.zero_()
    return model


def test_shares_are_counted_over_tokens_that_have_an_earlier_item() -> None:
    shares = AttentionShares()
    weights = torch.tensor(
        [
            [1.0, 0, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0],
            [0.2, 0.3, 0.5, 0, 0],
            [0.1, 0.2, 0.3, 0.4, 0],
            [0.1, 0.1, 0, 0.6, 0.2],
        ]
    )

    shares.add(weights, torch.tensor([0, 1, 1, 2, 2]))  # a prompt token, then two items of two tokens
    figures = shares.figures()

    assert figures["cross_item"] == pytest.approx((0.2 + 0.3 + 0.1) / 2)
    assert figures["own_item"] == pytest.approx(0.6 / 2)
    assert figures["itself"] == pytest.approx((0.4 + 0.2) / 2)
    assert figures["no_item"] == pytest.approx((0.1 + 0.1) / 2)
    # three pairs within the second item share 1.2, four across share 0.6
    assert figures["pair_ratio"] == pytest.approx((1.2 / 3) / (0.6 / 4))


@pytest.mark.parametrize("band", ["in", "cr"])
def test_tokens_that_look_evenly_have_the_share_of_what_they_see(band: str, data: Path, tmp_path: Path) -> None:
    model = looking_evenly(make_hatllm(tmp_path, in_layers=6 * (band == "in"), cr_layers=6 * (band == "cr")))
    reader = HistoryReader(model, Dataset.open(data).catalogue(), max_tokens=1000)
    items = np.array([1, 4, 2])
    lengths = [len(model.item_tokenizer.encode([reader.text(int(item))])[0]) for item in items]
    starts = [0, lengths[0], lengths[0] + lengths[1], sum(lengths)]
    # of the tokens so far, how many belong to earlier items
    plain = [starts[i] / (place + 1) for i in (1, 2) for place in range(starts[i], starts[i + 1])]

    layers = measure_shares(model, reader, [items])

    for layer in layers:
        assert layer["unmasked"]["cross_item"] == pytest.approx(np.mean(plain))
        assert layer["unmasked"]["pair_ratio"] > 0
        if band == "in":
            assert layer["masked"]["cross_item"] == 0.0
            assert layer["masked"]["pair_ratio"] is None
            assert layer["masked"]["own_item"] + layer["masked"]["itself"] == pytest.approx(1.0)
        else:  # the second item's tokens see one last token and themselves, the third's two
            expected = (lengths[1] / 2 + lengths[2] * 2 / 3) / (lengths[1] + lengths[2])
            assert layer["masked"]["cross_item"] == pytest.approx(expected)
            assert layer["masked"]["own_item"] == 0.0


def test_histories_are_cut_to_the_window_and_to_whole_items_within_the_limit(data: Path, tmp_path: Path) -> None:
    model = make_hatllm(tmp_path, max_history_length=4, prompt="bought: ")
    catalogue = Dataset.open(data).catalogue()
    items = np.array([1, 2, 1, 2, 4, 1])
    whole = HistoryReader(model, catalogue, max_tokens=1000).read(items)
    num_prompt = int((whole.item_map == 0).sum())
    last = len(model.item_tokenizer.encode([TITLES[0]])[0]) + len(model.item_tokenizer.encode([TITLES[3]])[0])

    cut = HistoryReader(model, catalogue, max_tokens=last + 1).read(items)

    assert whole.item_indices.tolist() == [1, 2, 4, 1]
    assert num_prompt > 0
    assert cut.item_indices.tolist() == [4, 1]
    assert cut.input_ids.shape == (1, num_prompt + last)
    assert HistoryReader(model, catalogue, max_tokens=1).read(items).item_indices.tolist() == [1]


def test_the_report_has_maps_and_shares_with_and_without_masks(data: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    model = add_model(store, make_hatllm(tmp_path, max_history_length=6))
    out, json_path = tmp_path / "out", tmp_path / "figures.json"

    report = look(AttentionSettings(model.model_id, data, store.root, out, json_path=json_path))

    assert json.loads(json_path.read_text()) == report
    assert (out / HEAT_MAPS).read_bytes().startswith(PNG)
    assert (out / CROSS_ITEM).read_bytes().startswith(PNG)
    assert report["num_users"] == 3  # the third user has no item before another
    # the first user with eight items; of the latest eight a window of 6 reads five
    assert report["history"]["user_id"] == "second"
    assert report["history"]["item_ids"] == ["i1", "i2", "i3", "i0", "i1"]
    assert report["history"]["layers"] == [0, 1, 2, 3, 4, 5]
    assert [layer["band"] for layer in report["layers"]] == ["in", "in", "or", "or", "cr", "cr"]
    for layer in report["layers"]:
        assert 0 < layer["unmasked"]["cross_item"] < 1
        parts = [layer["masked"][name] for name in ("cross_item", "own_item", "itself", "no_item")]
        assert sum(parts) == pytest.approx(1.0)
    assert all(layer["masked"]["cross_item"] == 0 for layer in report["layers"][:2])
    assert all(layer["masked"]["own_item"] == 0 for layer in report["layers"][4:])
    assert len(format_shares(report).splitlines()) == 2 + 6


def test_a_map_shows_what_a_token_sees_and_nothing_else(tmp_path: Path) -> None:
    import matplotlib.image

    block = np.kron(np.eye(2), np.tril(np.full((3, 3), 0.5)))
    causal = np.tril(np.full((6, 6), 0.2))
    maps = HeatMaps("t", ["one", "two"], np.array([3, 6]), {0: "in"}, masked={0: block}, unmasked={0: causal})
    draw_heat_maps(maps, tmp_path / "masked.png")
    draw_heat_maps(
        HeatMaps("t", ["one", "two"], np.array([3, 6]), {0: "in"}, {0: causal}, {0: causal}), tmp_path / "plain.png"
    )

    is_drawn = [
        (matplotlib.image.imread(tmp_path / name)[..., :3] < 0.98).any(axis=-1).sum()
        for name in ("masked.png", "plain.png")
    ]
    assert is_drawn[0] < is_drawn[1]


def test_the_command_draws_given_items_and_layers(data: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    model = add_model(store, make_hatllm(tmp_path))
    arguments = ["--model", model.model_id, "--data", str(data), "--store", store.root, "--out", str(tmp_path / "out")]

    outcome = CliRunner().invoke(
        app, [*arguments, "--items", "i2,i4,i2", "--layers", "0,5", "--users", "1"], catch_exceptions=False
    )

    lines = outcome.stdout.splitlines()
    assert lines[1].split() == ["layer", "band", "masked", "unmasked", "masked", "unmasked"]
    assert json.loads(lines[-1])["num_users"] == 1
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert report["history"]["item_ids"] == ["i2", "i4", "i2"]
    assert report["history"]["user_id"] is None
    assert report["history"]["layers"] == [0, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": "nobody"}, "'nobody' is not in"),
        ({"item_ids": ("i0", "x9")}, "'x9' is not in"),
        ({"layers": (0, 6)}, r"--layers 6: the model has 6 layers, expected 0\.\.5"),
        ({"user_id": "first", "item_ids": ("i0",)}, "expected one of them"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    change: dict[str, object], message: str, data: Path, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    model = add_model(store, make_hatllm(tmp_path))

    with pytest.raises(InvalidInput, match=message):
        look(AttentionSettings(model.model_id, data, store.root, tmp_path / "out", **change))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_another_kind_of_model_is_refused(data: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    model = add_small_model(store, small_hllm())

    with pytest.raises(InvalidInput, match="is of kind 'hllm', expected 'hatllm'"):
        look(AttentionSettings(model.model_id, data, store.root, tmp_path / "out"))


def test_layers_that_are_no_numbers_are_refused(data: Path, tmp_path: Path) -> None:
    arguments = ["--model", "m", "--data", str(data), "--store", str(tmp_path), "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(app, [*arguments, "--layers", "0,last"])
    assert isinstance(outcome.exception, InvalidInput)
    assert "'last'" in str(outcome.exception)


def test_the_picture_in_the_guide_shows_the_masks() -> None:
    guide = (Path(__file__).parents[2] / "docs/hatllm.md").read_text()
    picture = guide.split("<!-- masks -->\n```\n")[1].split("```")[0].splitlines()[2:]
    item_map = torch.tensor([[1, 1, 1, 2, 2, 3, 3, 3]])
    masks = [band_mask(band, item_map)[0] for band in BANDS]
    masks.append(band_mask("cr", item_map, options=MaskOptions(cr_keys="all"))[0])

    shown = [line.split()[1:] for line in picture]

    assert shown == [["#" if seen else "." for seen in torch.cat(rows).tolist()] for rows in zip(*masks, strict=True)]
