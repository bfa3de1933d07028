"""Attention and latent attention as whole layers, beside their equations a token at a time."""

import pytest
import torch
from torch import Tensor

from nl_course.memories import build_memory
from tests.memories.by_hand import (
    Weights,
    assert_is_its_equations,
    draw,
    heads_of,
    moved,
    rms_norm,
    softmax_read,
    turned,
)

WIDTH, TOKENS, ROWS, HEADS = 8, 9, 2, 4
SPLITS = ([TOKENS], [1] * TOKENS, [3, 1, 5], [4, 0, 5])
ATTENTION = {
    "plain": dict(kv_heads=4, head_dim=2, window=None, rope_theta=None, qk_norm=False),
    "grouped": dict(kv_heads=2, head_dim=4, window=3, rope_theta=100.0, qk_norm=True),
    "one-key": dict(kv_heads=1, head_dim=6, window=64, rope_theta=10_000.0, qk_norm=True),
}
LATENT = {
    "full-queries": dict(kv_rank=6, rope_dim=2, head_dim=4, value_dim=4, q_rank=None, rope_theta=10_000.0),
    "query-rank": dict(kv_rank=5, rope_dim=4, head_dim=2, value_dim=3, q_rank=6, rope_theta=100.0),
}


def columns(rows: list[list[Tensor]]) -> Tensor:
    """Every token's parts by head -> (heads, tokens, features)."""
    return torch.stack([torch.stack(row) for row in rows], dim=1)


def attention(w: Weights, o: dict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Softmax attention with grouped heads (arXiv 1706.03762, 2305.13245): x (t, d) of one text -> y (t, d)."""
    keys: list[list[Tensor]] = []
    values: list[list[Tensor]] = []
    outputs = []
    for t, row in enumerate(x):
        query = heads_of(row @ w["query.weight"].T, HEADS)
        key = heads_of(row @ w["key.weight"].T, o["kv_heads"])
        if o["qk_norm"]:
            query = [rms_norm(own, w["query_norm.weight"]) for own in query]
            key = [rms_norm(own, w["key_norm.weight"]) for own in key]
        keys.append([turned(own, t, o["rope_theta"]) for own in key])
        values.append(heads_of(row @ w["value.weight"].T, o["kv_heads"]))
        if o["window"] is not None:
            keys, values = keys[-o["window"] :], values[-o["window"] :]
        read = []
        for h in range(HEADS):
            own = turned(query[h], t, o["rope_theta"])
            shared = h // (HEADS // o["kv_heads"])  # neighboring heads share a key
            scores = [(own * key[shared]).sum() / o["head_dim"] ** 0.5 for key in keys]
            read.append(softmax_read(scores, [value[shared] for value in values]))
        outputs.append(torch.cat(read) @ w["output.weight"].T)
    return torch.stack(outputs), {"key.columns": columns(keys), "value.columns": columns(values)}


def latent(w: Weights, o: dict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, eq. 9 to 19), with every head's keys and values
    expanded from the latents: x (t, d) of one text -> y (t, d)."""
    d, p = o["head_dim"], o["rope_dim"]
    latents: list[Tensor] = []
    rope_keys: list[Tensor] = []
    outputs = []
    for t, row in enumerate(x):
        if o["q_rank"] is None:
            query = row @ w["query.weight"].T
        else:
            query = rms_norm(row @ w["query.0.weight"].T, w["query.1.weight"]) @ w["query.2.weight"].T
        down = row @ w["down.weight"].T
        latents.append(rms_norm(down[: o["kv_rank"]], w["latent_norm.weight"]))
        rope_keys.append(turned(down[o["kv_rank"] :], t, o["rope_theta"]))
        read = []
        for h, own in enumerate(heads_of(query, HEADS)):
            own_turned = turned(own[d:], t, o["rope_theta"])
            scores = []
            values = []
            for c, rope_key in zip(latents, rope_keys):
                key = heads_of(c @ w["up_key.weight"].T, HEADS)[h]
                score = (own[:d] * key).sum() + (own_turned * rope_key).sum()
                scores.append(score / (d + p) ** 0.5)
                values.append(heads_of(c @ w["up_value.weight"].T, HEADS)[h])
            read.append(softmax_read(scores, values))
        outputs.append(torch.cat(read) @ w["output.weight"].T)
    state = {"latent.columns": torch.stack(latents), "rope_key.columns": torch.stack(rope_keys)}
    return torch.stack(outputs), state


def check(name, oracle, options, path):
    layer = moved(build_memory(name, WIDTH, HEADS, path, **options))
    weights = dict(layer.named_parameters())
    x = draw(0, ROWS, TOKENS, WIDTH)
    assert_is_its_equations(layer, lambda text: oracle(weights, options, text), x, SPLITS, lambda s: s.tensors())


@pytest.mark.parametrize("path", ["reference", "sdpa"])
@pytest.mark.parametrize("options", ATTENTION)
def test_attention_is_its_equations(options, path):
    check("attention", attention, ATTENTION[options], path)


@pytest.mark.parametrize("path", ["reference", "sdpa"])
@pytest.mark.parametrize("options", LATENT)
def test_latent_attention_is_its_equations(options, path):
    check("latent-attention", latent, LATENT[options], path)
