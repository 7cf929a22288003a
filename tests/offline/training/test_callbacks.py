from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState

from offline.training.callbacks import CollapseAlarm, TimeLimit
from offline.training.losses import TrainingCollapsed
from offline.training.trainer import TaskArguments


def arguments(tmp_path: Path, *, max_minutes: float | None = None) -> TaskArguments:
    return TaskArguments(output_dir=str(tmp_path), use_cpu=True, max_minutes=max_minutes, report_to="none")


def test_the_alarm_goes_off_when_negatives_stay_away(tmp_path: Path) -> None:
    alarm, state = CollapseAlarm(min_survival=0.1, patience=2), TrainerState()
    for survival in (0.9, 0.05, 0.9, 0.05):
        alarm.on_log(arguments(tmp_path), state, TrainerControl(), logs={"negatives_survival": survival})
    with pytest.raises(TrainingCollapsed, match="3.00% of negatives"):
        alarm.on_log(arguments(tmp_path), state, TrainerControl(), logs={"negatives_survival": 0.03})


def test_a_run_too_short_for_a_log_line_is_judged_at_its_end(tmp_path: Path) -> None:
    figures: dict[str, float] = {}
    alarm = CollapseAlarm(lambda: figures, min_survival=0.1)
    alarm.on_train_end(arguments(tmp_path), TrainerState(), TrainerControl())
    figures["negatives_survival"] = 0.5
    alarm.on_train_end(arguments(tmp_path), TrainerState(), TrainerControl())
    figures["negatives_survival"] = 0.0
    with pytest.raises(TrainingCollapsed, match=r"0.00% of negatives .* are the items' texts the same"):
        alarm.on_train_end(arguments(tmp_path), TrainerState(), TrainerControl())


def test_time_before_a_kill_counts(tmp_path: Path) -> None:
    limit = TimeLimit()
    limit.elapsed_seconds = 60.0
    control = TrainerControl()
    limit.on_step_end(arguments(tmp_path, max_minutes=2), TrainerState(), control)
    assert not control.should_training_stop
    limit.on_step_end(arguments(tmp_path, max_minutes=1), TrainerState(), control)
    assert control.should_training_stop
    assert control.should_evaluate
