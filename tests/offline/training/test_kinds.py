from model_store.blend.config import KIND
from model_store.kinds import KINDS
from offline.indexing.kinds import PREPARE_ITEMS
from offline.training.kinds import KINDS as TRAINED_KINDS


def test_every_kind_of_model_that_can_be_served_can_be_indexed_and_trained_or_put_together() -> None:
    assert KINDS.keys() == PREPARE_ITEMS.keys() == TRAINED_KINDS.keys() | {KIND}


def test_settings_name_the_kind_that_they_train() -> None:
    assert {name: kind.settings.kind for name, kind in TRAINED_KINDS.items()} == {name: name for name in TRAINED_KINDS}
