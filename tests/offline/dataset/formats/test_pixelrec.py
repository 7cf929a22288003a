from pathlib import Path

import pyarrow.parquet as pq

from offline.dataset.dataset import Dataset
from offline.dataset.formats import pixelrec
from offline.import_data import ImportOptions, import_source
from tests.offline.datasets import write_text


def test_texts_are_kept_and_counters_left_out(tmp_path: Path) -> None:
    items = write_text(
        tmp_path / "information.csv.gz",
        "item_id,view_number,title,tag,description\n"
        'v1,100,"猫, a cat",动物,"first line\nsecond ""line"""\n'
        "v2,5,Dog,,\n",
    )
    log = write_text(
        tmp_path / "interactions.csv",
        "item_id,user_id,timestamp\nv1,u1,1600000002\nv2,u1,1600000001\nv2,u2,1600000000\n",
    )

    import_source(pixelrec.source(items, log), tmp_path / "out", ImportOptions(max_bad=0.0))

    dataset = Dataset.open(tmp_path / "out")
    assert dataset.catalogue().fields(1) == {
        "title": "猫, a cat",
        "category": "动物",
        "description": 'first line\nsecond "line"',
    }
    assert dataset.catalogue().fields(2) == {"title": "Dog"}
    rows = pq.read_table(tmp_path / "out/interactions.parquet").to_pylist()
    assert [row["item_id"] for row in rows if row["user_id"] == "u1"] == ["v2", "v1"]
