"""An independent forward pass of a masked decoder: plain softmax, one head after the other, masks by loops."""

from typing import Any

import torch

from model_store.hatllm.network import HatLLM


def allowed(band: str, item_of: list[int], query: int, key: int) -> bool:
    """The masks as sentences: may token ``query`` see token ``key``? For the default options."""
    if key > query:
        return False
    if key == query or band == "or":
        return True
    same = item_of[query] == item_of[key]
    if band == "in":
        return same
    if item_of[query] == 0 or item_of[key] == 0:
        return True
    is_last = key + 1 == len(item_of) or item_of[key + 1] != item_of[key]
    return not same and is_last


def linear(layer: Any, states: torch.Tensor) -> torch.Tensor:
    """A linear layer, with its adapter if it has one."""
    base = getattr(layer, "base_layer", layer)
    result = states @ base.weight.T
    if base.bias is not None:
        result = result + base.bias
    if hasattr(layer, "lora_A"):
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        result = result + (states @ down.T @ up.T) * layer.scaling["default"]
    return result


def norm(layer: Any, states: torch.Tensor) -> torch.Tensor:
    return states / (states.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon).sqrt() * layer.weight


def rotate(states: torch.Tensor, theta: float) -> torch.Tensor:
    """(T, d) at positions 0..T-1."""
    half = states.shape[1] // 2
    angles = torch.arange(len(states))[:, None] / theta ** (torch.arange(half)[None, :] / half)
    first, second = states[:, :half], states[:, half:]
    return torch.cat(
        (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), dim=1
    )


def plain_states(model: HatLLM, token_ids: list[int], item_of: list[int]) -> torch.Tensor:
    """(T, H) final states of one history."""
    decoder: Any = model.layers.model
    config = decoder.config
    theta = config.rope_parameters["rope_theta"]
    num_heads, num_shared = config.num_attention_heads, config.num_key_value_heads
    states = decoder.embed_tokens.weight[token_ids]
    for band, layer in zip(model.bands, decoder.layers, strict=True):
        mask = torch.tensor([[allowed(band, item_of, q, k) for k in range(len(item_of))] for q in range(len(item_of))])
        attention = layer.self_attn
        inputs = norm(layer.input_layernorm, states)
        queries, keys, values = (
            linear(getattr(attention, name), inputs).view(len(item_of), -1, attention.head_dim).transpose(0, 1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        if hasattr(attention, "q_norm"):
            queries, keys = norm(attention.q_norm, queries), norm(attention.k_norm, keys)
        outputs = []
        for head in range(num_heads):
            shared = head * num_shared // num_heads
            scores = rotate(queries[head], theta) @ rotate(keys[shared], theta).T / attention.head_dim**0.5
            weights = scores.masked_fill(~mask, -torch.inf).exp()
            outputs.append(weights @ values[shared] / weights.sum(dim=1, keepdim=True))
        states = states + linear(attention.o_proj, torch.cat(outputs, dim=1))
        inputs = norm(layer.post_attention_layernorm, states)
        gated = torch.nn.functional.silu(linear(layer.mlp.gate_proj, inputs)) * linear(layer.mlp.up_proj, inputs)
        states = states + linear(layer.mlp.down_proj, gated)
    return norm(decoder.norm, states)


def word_embeddings(model: HatLLM) -> torch.Tensor:
    """(V, H), which its tied token head is, too."""
    weight = model.layers.model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight
