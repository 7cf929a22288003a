"""What every test shares: one torch thread (the suite runs on two shared cores) and a clean environment."""

import os

import pytest
import torch

pytest_plugins = ("tests.shop",)


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HATSTAND_") and not name.startswith("HATSTAND_TEST_"):
            monkeypatch.delenv(name)
