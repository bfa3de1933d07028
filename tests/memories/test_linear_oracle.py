"""Linear attention, RetNet and the delta rules as whole layers, beside their equations a token at a time."""

import pytest
import torch
from torch import Tensor

from nl_course.memories import build_memory
from tests.memories.by_hand import (
    Weights,
    assert_is_its_equations,
    convolved,
    draw,
    heads_of,
    moved,
    rms_norm,
    silu,
    turned,
    unit,
)

WIDTH, TOKENS, ROWS, HEADS = 8, 9, 2, 2
SPLITS = ([TOKENS], [1] * TOKENS, [3, 1, 5], [4, 0, 5])
CASES = {
    "linear": dict(head_dim=3, value_dim=4, conv=0, gate=False),
    "linear-gated": dict(head_dim=4, value_dim=2, conv=3, gate=True),
    "retnet": dict(head_dim=4, value_dim=4, conv=0, gate=True, rope_theta=100.0),
    "retnet-conv": dict(head_dim=2, value_dim=3, conv=2, gate=False, rope_theta=None),
    "delta": dict(head_dim=3, value_dim=5, conv=4, gate=False, negative=False),
    "delta-negative": dict(head_dim=4, value_dim=4, conv=0, gate=True, negative=True),
    "gated-delta": dict(head_dim=4, value_dim=4, conv=4, gate=True, negative=False),
    "gated-delta-bare": dict(head_dim=3, value_dim=2, conv=0, gate=False, negative=True),
    "gated-delta-grouped": dict(head_dim=3, value_dim=2, conv=3, gate=True, negative=False, key_heads=1),
    "kda": dict(head_dim=4, value_dim=4, conv=4, gate=True, negative=False),
    "kda-bounded": dict(head_dim=3, value_dim=5, conv=0, gate=True, negative=True, lower_bound=-5.0, key_heads=1),
}


def layer_by_hand(name: str, w: Weights, o: dict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """S_t = alpha_t (I - beta_t k_t^T k_t) S_{t-1} + beta_t k_t^T v_t, o_t = q_t S_t (arXiv 2412.06464, eq. 10), or
    without the look-up S_t = alpha_t S_{t-1} + k_t^T v_t (2307.08621, eq. 6; with alpha = 1 2006.16236, eq. 18). With a
    vector alpha_t every row of S has its own (2510.26692, eq. 1). Grouped heads share queries and keys in turn."""
    delta = name in ("delta", "gated-delta", "kda")
    key_heads = o.get("key_heads", HEADS)
    projections = ("query", "key", "value")
    features = sum(w[f"{part}.weight"].shape[0] for part in projections)
    before = [torch.zeros(features, dtype=x.dtype)] * max(0, o["conv"] - 1)
    S = [torch.zeros(o["head_dim"], o["value_dim"], dtype=x.dtype) for _ in range(HEADS)]
    outputs = []
    for t, row in enumerate(x):
        qkv = torch.cat([row @ w[f"{part}.weight"].T for part in projections])
        if o["conv"]:
            qkv = convolved(qkv, before, w["conv.weight"], None)
        if delta:
            qkv = silu(qkv)
        keys = key_heads * o["head_dim"]
        q, k = heads_of(qkv[:keys], key_heads), heads_of(qkv[keys : 2 * keys], key_heads)
        v = heads_of(qkv[2 * keys :], HEADS)
        read = []
        for h in range(HEADS):
            shared = h * key_heads // HEADS
            q_t, k_t, v_t = q[shared], k[shared], v[h]
            if delta:
                q_t, k_t = unit(q_t), unit(k_t)
            if name == "retnet":
                q_t, k_t = turned(q_t, t, o["rope_theta"]), turned(k_t, t, o["rope_theta"])
            faded = alpha(name, w, row, h, o) * S[h]
            written = v_t
            if delta:
                beta = torch.sigmoid(row @ w["step.weight"][h]) * (2 if o["negative"] else 1)
                written = beta * (v_t - k_t @ faded)
            S[h] = faded + torch.outer(k_t, written)
            read.append(rms_norm(q_t @ S[h], w["norm.weight"]))
        y = torch.cat(read)
        if o["gate"] and name == "kda":
            y = y * torch.sigmoid(row @ w["gate.down.weight"].T @ w["gate.up.weight"].T)
        elif o["gate"]:
            y = y * silu(row @ w["gate.weight"].T)
        outputs.append(y @ w["output.weight"].T)
    state = {"matrix": torch.stack(S)}
    if o["conv"]:
        state["conv_state"] = torch.stack(before)
    return torch.stack(outputs), state


def alpha(name: str, w: Weights, row: Tensor, h: int, o: dict) -> Tensor | float:
    """What is kept of a head's past: all; RetNet's fixed share (2307.08621, eq. 8); Mamba 2's gate; or one such gate
    for every row of S, (d_k, 1), bounded or not (transformers' Kimi Linear and GLM-5.3)."""
    if name == "retnet":
        return 1 - 2.0 ** (-5 - h)
    if name == "gated-delta":
        interval = torch.log(1 + torch.exp(row @ w["interval.weight"][h] + w["interval_bias"][h]))
        return torch.exp(-interval * torch.exp(w["log_rate"][h]))
    if name == "kda":
        logits = row @ w["interval.down.weight"].T @ w["interval.up.weight"].T + w["interval_bias"]
        logits, rate = heads_of(logits, HEADS)[h], torch.exp(w["log_rate"][h])
        if "lower_bound" in o:
            return torch.exp(o["lower_bound"] * torch.sigmoid(rate * logits))[:, None]
        return torch.exp(-rate * torch.log(1 + torch.exp(logits)))[:, None]
    return 1.0


@pytest.mark.parametrize("path", ["reference", "chunked", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_the_layer_is_its_equations(case, path):
    options = CASES[case]
    name = next(known for known in ("gated-delta", "delta", "kda", "retnet", "linear") if case.startswith(known))
    layer = moved(build_memory(name, WIDTH, HEADS, path, chunk=4, **options))
    weights = dict(layer.named_parameters())
    x = draw(0, ROWS, TOKENS, WIDTH)
    oracle = lambda text: layer_by_hand(name, weights, options, text)  # noqa: E731
    assert_is_its_equations(layer, oracle, x, SPLITS, lambda state: state.tensors())
