"""Self-modifying Titans as a whole layer, beside its equations a token at a time."""

import pytest
import torch
from torch import Tensor

from nl_course.memories import build_memory
from tests.memories.by_hand import (
    ACTIVATIONS,
    EPSILON,
    Weights,
    assert_is_its_equations,
    convolved,
    draw,
    heads_of,
    moved,
    rms_norm,
    silu,
    unit,
)

WIDTH, TOKENS, ROWS, HEADS = 8, 9, 2, 2
SPLITS = ([TOKENS], [1] * TOKENS, [4, 0, 1, 4])
DEFAULTS = dict(kind="mlp", hidden=3, activation="silu", variant="self-modifying", adaptive_query=False, chunk=4)
DEFAULTS |= dict(chunk_others=3, read="boundary", erase="per-layer", momentum=0.0, retention=True, max_step=0.3)
DEFAULTS |= dict(values="bounded", conv=3)
CASES = {
    "self-modifying": {},
    "running": dict(read="running", momentum=0.6, adaptive_query=True, chunk=3, chunk_others=2, activation="gelu"),
    "linear": dict(kind="linear", hidden=None, erase="input", values="unit", chunk=1, chunk_others=1),
    "adaptive": dict(variant="adaptive", retention=False, erase="input", conv=0),
    "plain": dict(variant="plain", erase="off", values="plain", read="running", momentum=0.5),
}
VECTORS = ("key", "value", "query", "memory")  # memories that answer with a vector; the others answer with a number


class OneMemory:
    """One head's memory M of one name: as it stands, at its last boundary, and its momentum."""

    def __init__(self, name: str, w: Weights, o: dict, h: int):
        self.name = name
        self.o = o
        parts = ("out",) if o["kind"] == "linear" else ("into", "out")
        self.now = {part: w[f"start.{name}_{part}"][h] for part in parts}
        self.anchor = self.now
        self.momentum = {part: torch.zeros_like(weight) for part, weight in self.now.items()}

    def inputs(self, weights: Weights, z: Tensor) -> dict[str, Tensor]:
        """What each layer is given."""
        if self.o["kind"] == "linear":
            return {"out": z}
        return {"into": z, "out": ACTIVATIONS[self.o["activation"]](z @ weights["into"])}

    def answer(self, weights: Weights, z: Tensor) -> Tensor:
        """M(z), (f,) or (1,): eq. 89, a residual path around two layers where the answer is a vector."""
        y = self.inputs(weights, z)["out"] @ weights["out"]
        return z + y if self.o["kind"] == "mlp" and self.name in VECTORS else y

    def write(self, k: Tensor, target: Tensor, eta: Tensor, alpha: Tensor | float) -> None:
        """M <- (alpha I - eta k^T k) M - eta grad |M(k) - target|^2 / 2, the gradient at the anchor (eq. 88, 90)."""
        at = {part: weight.clone() for part, weight in self.anchor.items()}
        error = self.answer(at, k) - target
        gradient = torch.autograd.grad((error * error).sum() / 2, list(at.values()), create_graph=True)
        inputs = self.inputs(self.anchor, k)
        first, *_ = self.now
        now = {}
        momentum = {}
        for part, g in zip(at, gradient):
            a = inputs[part]
            rate = eta
            if part != first:
                rate = eta / ((a * a).sum() + EPSILON)  # the course's choice: along the layer's own input
            if self.o["erase"] == "off" or (self.o["erase"] == "input" and part != first):
                rate = 0.0
            erased = rate * torch.outer(a, a @ self.now[part])
            momentum[part] = self.o["momentum"] * self.momentum[part] - eta * g
            now[part] = alpha * self.now[part] - erased + momentum[part]
        self.now = now
        self.momentum = momentum


def value_of(v: Tensor, o: dict) -> Tensor:
    """v shorter than 1, of length 1, or as it is."""
    if o["values"] == "bounded":
        return v / torch.sqrt(1 + (v * v).sum())
    return unit(v) if o["values"] == "unit" else v


def layer_by_hand(w: Weights, o: dict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """x (t, d) of one text -> y (t, d), and every memory's weights after the last token (arXiv 2512.24695, eq. 76 to
    93)."""
    names = ["key", "value", "step", "memory"]
    names += ["query"] * o["adaptive_query"] + ["retention"] * o["retention"]
    moving = ["memory"] if o["variant"] == "plain" else names
    heads = [{name: OneMemory(name, w, o, h) for name in names} for h in range(HEADS)]
    before = [torch.zeros(WIDTH, dtype=x.dtype)] * max(0, o["conv"] - 1)
    outputs = []
    for t, row in enumerate(x):
        u = convolved(row, before, w["conv.weight"], w["conv.bias"]) if o["conv"] else row
        read = []
        for h, memories in enumerate(heads):
            z = heads_of(u, HEADS)[h] / (WIDTH // HEADS) ** 0.5
            said = {name: memory.answer(memory.anchor, z) for name, memory in memories.items()}  # eq. 83 to 87
            k = unit(said["key"])
            v = value_of(said["value"], o)
            q = unit(said["query"]) if o["adaptive_query"] else unit(heads_of(u @ w["query.weight"].T, HEADS)[h])
            eta = o["max_step"] * torch.sigmoid(said["step"] + w["step_bias"][h])
            alpha = torch.sigmoid(said["retention"] + w["retention_bias"][h]) if o["retention"] else 1.0
            answers = memories["memory"]
            if o["read"] == "boundary":
                read.append(answers.answer(answers.anchor, q))
            for name in moving:
                memory = memories[name]
                if o["variant"] == "self-modifying":
                    target = memory.answer(memory.anchor, v)
                elif name in VECTORS:
                    target = v
                else:
                    target = (v @ w[f"number.{name}"][h])[None]
                memory.write(k, target, eta, alpha)
                chunk = o["chunk"] if name == "memory" else o["chunk_others"]
                if (t + 1) % chunk == 0:
                    memory.anchor = memory.now
            if o["read"] == "running":
                read.append(answers.answer(answers.now, q))
        y = rms_norm(torch.cat(read), w["norm.weight"]) * silu(row @ w["gate.weight"].T)
        outputs.append(y @ w["output.weight"].T)
    state = {}
    for name in names:
        for part in heads[0][name].now:
            state[f"{name}.{part}"] = torch.stack([memories[name].now[part] for memories in heads])
    if o["conv"]:
        state["conv_state"] = torch.stack(before)
    return torch.stack(outputs), state


def state_by_name(layer, state) -> dict[str, Tensor]:
    """What the oracle calls the state: every memory's weights after the last token, and the convolution's."""
    tensors = {}
    for name, weights in layer.weights(state).items():
        for part, weight in weights.items():
            tensors[f"{name}.{part}"] = weight
    if state.conv_state is not None:
        tensors["conv_state"] = state.conv_state
    return tensors


@pytest.mark.parametrize("path", ["reference", "chunked"])
@pytest.mark.parametrize("case", CASES)
def test_the_layer_is_its_equations(case, path):
    options = DEFAULTS | CASES[case]
    layer = moved(build_memory("self-modifying", WIDTH, HEADS, path, **options))
    weights = dict(layer.named_parameters())
    assert_is_its_equations(
        layer,
        lambda text: layer_by_hand(weights, options, text),
        draw(0, ROWS, TOKENS, WIDTH),
        SPLITS if path == "chunked" else SPLITS[-1:],
        lambda state: state_by_name(layer, state),
    )
