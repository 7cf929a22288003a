from pathlib import Path

from offline.training.checkpoints import latest_complete, mark_complete, remove_incomplete


def checkpoint(directory: Path, step: int, *, is_marked: bool = True) -> Path:
    path = directory / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"0123456789")
    (path / "trainer_state.json").write_text("{}")
    if is_marked:
        mark_complete(path)
    return path


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, is_marked=False)
    assert latest_complete(tmp_path) == newest


def test_a_truncated_or_incomplete_checkpoint_is_not_whole(tmp_path: Path) -> None:
    truncated, lacking, extended = (checkpoint(tmp_path, step) for step in (1, 2, 3))
    (truncated / "model.safetensors").write_bytes(b"0123")
    (lacking / "trainer_state.json").unlink()
    (extended / "optimizer.pt").write_bytes(b"")
    assert latest_complete(tmp_path) is None


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, is_marked=False)
    remove_incomplete(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]
