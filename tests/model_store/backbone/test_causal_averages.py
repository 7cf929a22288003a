import pytest
import torch

from model_store.backbone.causal_averages import CausalAverages, average_layers
from model_store.backbone.load import load_backbone
from model_store.errors import InvalidInput
from tests.model_store.models import FAMILIES, make_directory


def test_a_position_is_the_weighted_mean_of_the_past() -> None:
    average = CausalAverages(2)
    with torch.no_grad():
        average.decay_logit.copy_(torch.logit(torch.tensor([0.5, 0.25])))
    states = torch.tensor([[[4.0, 8.0], [1.0, 3.0], [2.0, 5.0]]])

    found = average(states)

    # channel 0: weights 1, 1/2, 1/4; channel 1: 1, 1/4, 1/16
    expected = [
        [4.0, 8.0],
        [(1 + 4 / 2) / 1.5, (3 + 8 / 4) / 1.25],
        [(2 + 1 / 2 + 4 / 4) / 1.75, (5 + 3 / 4 + 8 / 16) / 1.3125],
    ]
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
def test_averages_are_mixed_into_every_layer_and_see_no_future(family: str, tmp_path) -> None:
    backbone = load_backbone(make_directory(family, tmp_path))
    model = backbone.model.eval()
    inputs = torch.randn(2, 6, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(inputs_embeds=inputs).last_hidden_state
        names = set(model.state_dict())
        averages = average_layers(model, share=0.6)
        mixed = model(inputs_embeds=inputs).last_hidden_state
        changed = inputs.clone()
        changed[:, 4:] += 1
        early = model(inputs_embeds=changed).last_hidden_state[:, :4]

    assert len(averages) == 2
    assert set(model.state_dict()) == names
    assert not torch.allclose(plain, mixed, atol=1e-3)
    torch.testing.assert_close(early, mixed[:, :4])


def test_an_architecture_whose_inside_is_not_known_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidInput, match="not known for bert"):
        average_layers(load_backbone(make_directory("bert", tmp_path)).model, share=0.5)
