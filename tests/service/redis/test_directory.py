"""Each store has an embedded Redis of its own, and the data of the releases before are read on."""

from pathlib import Path

import pytest

from service.redis.directory import embedded_directory


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_stores_have_two_folders() -> None:
    stores = [".hatstand/store", "shop", "other/shop", "/srv/shop", "s3://bucket/shop", "gs://bucket/shop"]
    folders = [embedded_directory(store, None) for store in stores]
    assert folders[:4] == [
        Path(".hatstand/redis"),
        Path("shop-redis"),
        Path("other/shop-redis"),
        Path("/srv/shop-redis"),
    ]
    assert len(set(folders)) == len(stores)
    # whatever was started before, and in whichever order
    assert [embedded_directory(store, None) for store in reversed(stores)] == folders[::-1]


def test_the_settings_may_name_another_one() -> None:
    assert embedded_directory("shop", Path("/data/redis")) == Path("/data/redis")


def test_the_first_store_goes_on_with_the_data_of_the_release_before() -> None:
    kept = Path(".hatstand/redis/appendonlydir/appendonly.aof.1.base.rdb")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"histories")
    assert embedded_directory("shop", None) == Path(".hatstand/redis")
    assert embedded_directory("./shop", None) == Path(".hatstand/redis")
    assert embedded_directory(".hatstand/store", None) == Path(".hatstand/store-redis")
    assert embedded_directory("other", None) == Path("other-redis")
    assert kept.read_bytes() == b"histories"
