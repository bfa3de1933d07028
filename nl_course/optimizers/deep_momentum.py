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
from nl_course.optimizers.muon import check_newton_schulz, orthogonal
from nl_course.optimizers.newton_schulz import as_matrix

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

    `ns_steps`, `ns_kind` and `precision` are those of `Muon`.

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
    ) -> None:
        memory = dict(momentum=momentum, depth=depth, width=width, gain=gain, output=output, seed=seed)
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

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Writes each memory by its inner gradient, and adds what it answers; in place."""
        apply_weight_decay(group, params)
        for parameter in params:
            weights, starts = self._memory(group, parameter)
            is_vector = parameter.dim() < 2
            g = parameter.grad.reshape(1, -1) if is_vector else as_matrix(parameter.grad)  # (o, d)

            # A <- start + momentum (A - start) - lr / gain * gradient, for every A of the memory.
            memory_grads = inner_gradient(weights, group["gain"] * g)
            for A, start, grad in zip(weights, starts, memory_grads):
                A.sub_(start)
                A.mul_(group["momentum"])
                A.add_(grad, alpha=-group["lr"] / group["gain"])
                A.add_(start)

            step = read(weights)  # (o, d)
            if group["output"] == "newton-schulz" and not is_vector:
                step = group["lr"] * orthogonal(group, [step])[0]
            parameter.add_(step.view_as(parameter))

    def _memory(self, group: dict[str, Any], parameter: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The weights A_1 .. A_L of a parameter's memory, and where momentum pulls them: their start. Made at first."""
        state = self.state[parameter]
        is_vector = parameter.dim() < 2
        depth = 1 if is_vector else group["depth"]
        if "weight_0" not in state:
            o, d = (1, parameter.numel()) if is_vector else as_matrix(parameter).shape
            h = group["width"] or d
            generator = torch.Generator().manual_seed(group["seed"])
            sizes = [d, *[h] * (depth - 1)]
            for i, (inputs, outputs) in enumerate(pairwise(sizes)):
                start = torch.nn.init.orthogonal_(torch.empty(outputs, inputs), generator=generator)
                state[f"start_{i}"] = start.to(parameter)
                state[f"weight_{i}"] = state[f"start_{i}"].clone()
            state[f"weight_{depth - 1}"] = torch.zeros(o, sizes[-1], dtype=parameter.dtype, device=parameter.device)
        weights = [state[f"weight_{i}"] for i in range(depth)]
        starts = [state[f"start_{i}"] for i in range(depth - 1)]
        zero = weights[-1].new_zeros(())  # the start of A_L
        return weights, [*starts, zero]


def inner_gradient(weights: list[Tensor], keys: Tensor) -> list[Tensor]:
    """The gradient of trace(m(keys^T)) for each weight A_i of the memory; keys (o, d), one in each row.

    The loss is linear in the outputs, so their gradient is the identity and nothing needs to be read.
    """
    activities = [keys]  # (o, d), then (o, h) behind each tanh
    for A in weights[:-1]:
        activities.append(torch.tanh(activities[-1] @ A.T))
    gradients = [activities[-1]]  # of A_L, (o, h): the identity times the last activities
    error = weights[-1]  # (o, h): row r is what output r sends back to the activities under key r
    for i in range(len(weights) - 2, -1, -1):
        error = error * (1 - activities[i + 1].square())  # through the tanh
        gradients.insert(0, error.T @ activities[i])  # of A_{i+1}, (h, h) or (h, d)
        error = error @ weights[i]  # (o, h) or (o, d)
    return gradients


def read(weights: list[Tensor]) -> Tensor:
    """m(I_d) (o, d): what the memory answers to each unit vector."""
    *hidden, last = weights
    if not hidden:
        return last
    x = torch.tanh(hidden[0])  # (h, d): A_1 times the identity
    for A in hidden[1:]:
        x = torch.tanh(A @ x)  # (h, d)
    return last @ x
