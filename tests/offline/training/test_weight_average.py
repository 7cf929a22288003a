from pathlib import Path

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from offline.training.weight_average import WeightAverage


def _step(average: WeightAverage, step: int, tmp_path: Path) -> None:
    state = TrainerState()
    state.global_step = step
    average.on_step_end(TrainingArguments(output_dir=str(tmp_path), use_cpu=True), state, TrainerControl())


def test_the_average_is_that_of_the_steps_and_the_model_trains_on(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    frozen = torch.nn.Parameter(torch.tensor([3.0]), requires_grad=False)
    model.register_parameter("frozen", frozen)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(model, 0.5)

    with torch.no_grad():
        model.weight.fill_(2.0)
    _step(average, 1, tmp_path)  # decay 2/4
    with torch.no_grad():
        model.weight.fill_(4.0)
    _step(average, 1000, tmp_path)  # decay .5

    first = (1.0 + 2.0) / 2
    with average.applied():
        torch.testing.assert_close(model.weight.item(), (first + 4.0) / 2)
    assert model.weight.item() == 4.0
    assert frozen.item() == 3.0


def test_a_checkpoint_keeps_both_the_average_and_the_weights_in_training(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    _step(average, 50, tmp_path)
    average.save_trained(tmp_path / "checkpoint")
    with average.applied():
        averaged = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = model.weight.detach().clone()

    resumed = torch.nn.Linear(2, 2)
    resumed.load_state_dict(averaged)  # as the Trainer does
    again = WeightAverage(resumed, 0.9)
    again.load_trained(tmp_path / "checkpoint")

    assert torch.equal(resumed.weight, trained)
    with again.applied():
        assert torch.equal(resumed.weight, averaged["weight"])
