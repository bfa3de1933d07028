"""How the outer loop teaches the writes: the gradient of one answer's loss, walked back through every write.

The model reads a text and the question, and the loss is that of the answer's bytes. One real backward pass says what of
this loss reaches each token's key, value and gates. If the text were cut after byte c, so that what was written up to
there counts as a constant, later tokens would get the very same gradients and earlier ones none: a model of one layer
meets the past only through its memory. So the gradients of the projections for every cut are sums over what is left.

Three modes: "exact"; "first-order", in which each surprise counts as a constant, so that only gates and start learn;
"stopped", in which keys, values and gates do, so that only the start learns.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.lmm import Titans
from nl_course.memories.titans.neural import NeuralMemory
from nl_course.model import LanguageModel
from nl_course.record.stage.linear import is_one_matrix, learn_linear

MODES = ("exact", "first-order", "stopped")


@dataclass(frozen=True)
class WalkBack:
    """The loss of the answer (nats, all bytes together) and its gradient's norm at each token, (t,) each: at its value,
    its key, and its gates; at the start of the memory; and at the whole projections for keys and values if all before
    token c counts as a constant, (t + 1,) each for c = 0 (no cut) to t."""

    loss: float
    value: np.ndarray
    key: np.ndarray
    gates: np.ndarray
    start: float
    value_weights: np.ndarray
    key_weights: np.ndarray


def can_walk_back(model: LanguageModel) -> bool:
    """Whether the model is one layer of Titans' memory, a plain matrix per head."""
    memory = model.layers[0].memory
    return len(model.layers) == 1 and isinstance(memory, Titans) and is_one_matrix(memory.config)


def walk_back(model: LanguageModel, tokens: Tensor, question: Tensor, answer: Tensor, mode: str = "exact") -> WalkBack:
    """The backward pass for tokens (t,), then question (n,) and answer. Raises CourseError unless the model has one
    layer with Titans' memory."""
    if not can_walk_back(model):
        raise CourseError("the gradient is walked back through one layer of Titans, a plain matrix per head.")
    neural, count = model.layers[0].memory.neural, len(tokens)
    seen: dict[str, Tensor] = {}
    inside = neural.write_inputs

    def kept(x: Tensor, conv_states: tuple):
        """The write inputs as leaves of the graph, so that each token has a gradient of its own."""
        q, k, v, gates, after = inside(x, conv_states)
        if not seen:
            k, v = k.detach().requires_grad_(), v.detach().requires_grad_()
            gates = gates.map(lambda gate: gate.detach().requires_grad_())
            seen.update(x=x.detach(), k=k, v=v, step=gates.step, past=gates.log_momentum, keep=gates.log_retention)
        if mode == "stopped":
            k, v, gates = k.detach(), v.detach(), Gates(*(gate.detach() for gate in gates))
        return q, k, v, gates, after

    text = torch.cat([tokens, question, answer])[None]
    learn = neural.learn
    stop = "first-order" if mode == "first-order" else "none"
    neural.learn = partial(learn_linear, replace(neural.config, stop_gradient=stop))
    neural.write_inputs = kept
    try:
        with torch.enable_grad():
            model.zero_grad(set_to_none=True)
            logits, _ = model(text[:, :-1])
            loss = cross_entropy(logits[0, -len(answer) :], answer, reduction="sum")
            loss.backward()
    finally:
        neural.learn = learn
        del neural.write_inputs

    def gradient(name: str) -> Tensor:
        """Of the text's tokens alone, (h, t, ...); zeros where nothing flows."""
        leaf = seen[name]
        flowed = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return flowed[0, :, :count]

    value, key = gradient("v"), gradient("k")  # (h, t, f)
    gates = torch.stack([gradient(name) for name in ("step", "past", "keep")])  # (3, h, t)
    start = neural.start["W1"].grad
    weights = {}
    for name in ("v", "k"):
        rows = _projection_rows(neural, name, seen["x"][0], gradient(name))  # (t, width, width)
        left = rows.flip(0).cumsum(0).flip(0)  # (t, width, width): what is left after a cut before token c
        norms = left.flatten(1).norm(dim=1).numpy()
        weights[name] = np.append(norms, 0.0)
    model.zero_grad(set_to_none=True)
    return WalkBack(
        loss=loss.item(),
        value=value.transpose(0, 1).flatten(1).norm(dim=1).numpy(),
        key=key.transpose(0, 1).flatten(1).norm(dim=1).numpy(),
        gates=gates.permute(2, 0, 1).flatten(1).norm(dim=1).numpy(),
        start=0.0 if start is None else start.norm().item(),
        value_weights=weights["v"],
        key_weights=weights["k"],
    )


def _projection_rows(neural: NeuralMemory, name: str, x: Tensor, flowed: Tensor) -> Tensor:
    """What each token of the text adds to the gradient of the projection of values or keys, (t, out, in), given what
    `flowed` to its values or keys (h, t, f) and what the layer read, x (t', width)."""
    projection = neural.value if name == "v" else neural.key
    count = flowed.shape[1]
    if not flowed.any():
        return torch.zeros(count, *projection.weight.shape)
    rows = []
    with torch.enable_grad():
        (made,), _ = neural.project(x[None], neural.init_conv_states(1, name), name)  # (1, h, t', f)
        for t in range(count):
            (row,) = torch.autograd.grad(made[0, :, t], projection.weight, flowed[:, t], retain_graph=True)
            rows.append(row)
    return torch.stack(rows)
