from model_store.kinds import KINDS as STORED_KINDS
from offline.training.kinds import KINDS


def test_every_kind_of_model_that_can_be_served_can_be_trained_and_indexed_and_no_other() -> None:
    assert KINDS.keys() == STORED_KINDS.keys()


def test_settings_name_the_kind_that_they_train() -> None:
    assert {name: kind.settings.kind for name, kind in KINDS.items()} == {name: name for name in KINDS}
