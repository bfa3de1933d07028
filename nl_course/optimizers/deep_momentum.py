"""Deep momentum (DMGD): the memory of gradients is a small MLP with weights theta of its own.

    theta <- momentum * theta - lr * grad of the inner loss                        N18-N24, E46-E52
    W     <- W + m_theta

W is (o, d); m_theta, what the memory answers, has the same shape.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.optimizers.base import Descent, apply_weight_decay, check_fraction
from nl_course.optimizers.layout import as_matrix, check_layout, from_matrix, is_vector
from nl_course.optimizers.muon import check_newton_schulz, ns_options
from nl_course.optimizers.newton_schulz import newton_schulz

OUTPUTS = ("identity", "newton-schulz")


class DeepMomentum(Descent):
    """Nested Learning's deep momentum gradient descent.

    Each matrix W (o, d) has an MLP from R^d to R^o for its memory, m(x) = A_L tanh(A_{L-1} ... tanh(A_1 x)), of `depth`
    L and `width` h. It is written through the inner loss trace(m(g^T)): every row of g is a key, and the memory is
    pushed down along that row's own output. Inputs, width and depth are not in the paper. What we chose, and why:

    * Written with g, read at the identity: the step is m(I_d), (o, d). So depth 1 is heavy ball exactly, and with
      `output="newton-schulz"` it is Muon. Read at g itself, as the formula has it, already a linear memory would fit
      no W that is not square, and element by element it would lose the gradient's sign.
    * A_1 .. A_{L-1} start as orthogonal maps (from `seed`), and momentum pulls them back there, not to zero, where the
      memory would die. A_L starts at zero. Small gradients then see heavy ball if h >= d, large ones saturate.
    * `gain` multiplies the keys, and the inner loss is divided by it: a larger gain saturates earlier.
    * `width` None takes h = d. Vectors and scalars keep a linear memory, which is heavy ball, without Newton-Schulz.

    `ns_steps`, `ns_kind`, `precision` and `layout` are those of `Muon`; of a stack each matrix has a memory of its own.

    State: at depth 1 o d elements per matrix; else o h + 2 (h d + (depth - 2) h^2), starts included.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        momentum: float = 0.9,
        depth: int = 2,
        width: int | None = None,
        gain: float = 1.0,
        output: str = "identity",
        weight_decay: float = 0.0,
        seed: int = 0,
        ns_steps: int | None = None,
        ns_kind: str = "quintic",
        precision: str = "auto",
        layout: str = "out-in",
    ) -> None:
        memory = dict(momentum=momentum, depth=depth, width=width, gain=gain, output=output, seed=seed, layout=layout)
        ns = dict(ns_steps=ns_steps, ns_kind=ns_kind, precision=precision)
        super().__init__(params, lr, weight_decay, foreach=False, **memory, **ns)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a setting of its own that makes no sense."""
        check_fraction("momentum", group["momentum"], one=True)
        check_int("depth", group["depth"], 1)
        check_int("seed", group["seed"])
        if group["width"] is not None:
            check_int("width", group["width"], 1)
        if not check_min("gain", group["gain"], 0) > 0:
            raise CourseError("gain must be more than 0.")
        check_choice("output", group["output"], OUTPUTS)
        check_newton_schulz(group)
        check_layout(group)

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """The weights of the memory, and the starts of all but the last."""
        shapes = weight_shapes(group, parameter)
        weights = {f"weight_{i}": shape for i, shape in enumerate(shapes)}
        return weights | {f"start_{i}": shape for i, shape in enumerate(shapes[:-1])}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Writes each memory by its inner gradient, and adds what it answers; in place."""
        apply_weight_decay(group, params)
        for parameter in params:
            weights, starts = self._memory(group, parameter)
            g = keys_of(parameter.grad, group["layout"])  # (..., o, d)

            # A <- start + momentum (A - start) - lr / gain * gradient, for every A of the memory.
            memory_grads = inner_gradient(weights, group["gain"] * g)
            for A, start, grad in zip(weights, starts, memory_grads):
                A.sub_(start)
                A.mul_(group["momentum"])
                A.add_(grad, alpha=-group["lr"] / group["gain"])
                A.add_(start)

            step = read(weights)  # (..., o, d)
            if is_vector(parameter, group["layout"]):
                parameter.add_(step.view_as(parameter))
                continue
            if group["output"] == "newton-schulz":
                step = group["lr"] * newton_schulz(step, **ns_options(group))
            parameter.add_(from_matrix(step, parameter, group["layout"]))

    def _memory(self, group: dict[str, Any], parameter: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The weights A_1 .. A_L of a parameter's memory, and where momentum pulls them: their start. Made at first."""
        state = self.state[parameter]
        shapes = weight_shapes(group, parameter)
        depth = len(shapes)
        if "weight_0" not in state:
            generator = torch.Generator().manual_seed(group["seed"])
            for i, shape in enumerate(shapes[:-1]):
                start = torch.nn.init.orthogonal_(torch.empty(shape[-2:]), generator=generator)
                # Of a stack all memories begin alike, as they would in separate parameters.
                state[f"start_{i}"] = start.to(parameter).expand(shape).clone()
                state[f"weight_{i}"] = state[f"start_{i}"].clone()
            state[f"weight_{depth - 1}"] = parameter.new_zeros(shapes[-1])
        weights = [state[f"weight_{i}"] for i in range(depth)]
        starts = [state[f"start_{i}"] for i in range(depth - 1)]
        zero = weights[-1].new_zeros(())  # the start of A_L
        return weights, [*starts, zero]


def weight_shapes(group: dict[str, Any], parameter: Tensor) -> list[torch.Size]:
    """The shapes of A_1 .. A_L, (..., out, in) each, of a parameter's memory, or of one for each matrix of a stack."""
    depth = 1 if is_vector(parameter, group["layout"]) else group["depth"]
    *heads, o, d = keys_of(parameter, group["layout"]).shape
    h = group["width"] or d
    widths = [d, *[h] * (depth - 1), o]
    return [torch.Size((*heads, outputs, inputs)) for inputs, outputs in pairwise(widths)]


def keys_of(gradient: Tensor, layout: str) -> Tensor:
    """A gradient as the keys of its memory, or of several, (..., o, d). Vectors have a linear memory, which is the same
    element by element: all of them are one row."""
    return gradient.reshape(1, -1) if is_vector(gradient, layout) else as_matrix(gradient, layout)


def inner_gradient(weights: list[Tensor], keys: Tensor) -> list[Tensor]:
    """The gradient of trace(m(keys^T)) for each weight A_i of the memory; keys (..., o, d), one in each row.

    The loss is linear in the outputs, so their gradient is the identity and nothing needs to be read.
    """
    activities = [keys]  # (..., o, d), then (..., o, h) behind each tanh
    for A in weights[:-1]:
        activities.append(torch.tanh(activities[-1] @ A.mT))
    gradients = [activities[-1]]  # of A_L, (..., o, h): the identity times the last activities
    error = weights[-1]  # (..., o, h): row r is what output r sends back to the activities under key r
    for i in range(len(weights) - 2, -1, -1):
        error = error * (1 - activities[i + 1].square())  # through the tanh
        gradients.insert(0, error.mT @ activities[i])  # of A_{i+1}, (..., h, h) or (..., h, d)
        error = error @ weights[i]  # (..., o, h) or (..., o, d)
    return gradients


def read(weights: list[Tensor]) -> Tensor:
    """m(I_d) (..., o, d): what the memory answers to each unit vector."""
    *hidden, last = weights
    if not hidden:
        return last
    x = torch.tanh(hidden[0])  # (..., h, d): A_1 times the identity
    for A in hidden[1:]:
        x = torch.tanh(A @ x)  # (..., h, d)
    return last @ x
