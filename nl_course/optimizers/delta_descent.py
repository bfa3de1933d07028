"""Delta gradient descent (DGD): a layer as a memory of its own errors that erases before it writes."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_min
from nl_course.optimizers.base import Descent, decay
from nl_course.optimizers.layer_inputs import LayerInputs

ERASES = ("exact", "mean", "off")
REDUCTIONS = ("mean", "sum")


class DeltaGradientDescent(Descent):
    """W <- argmin_W |W x - u|^2 / 2 + |W - W_t|_F^2 / (2 lr),  u = -dL/dy held fixed  (Nested Learning N27-N28, E56).

    The memory is the layer itself, y = W x: its keys are the layer's inputs, its values the errors u. Gradient descent
    minimises -<W x, u> in place of the square; what DGD adds is that what is stored under x is erased first. State: no
    elements; the inputs of a step are kept from its forward pass until the step.

    One sample: W (I - r x x^T) + r u x^T with r = lr / (1 + lr |x|^2). (The paper prints lr / (1 + lr), right for
    |x| = 1 only, and in N28 an erase without a rate.) `erase`:

    * "exact": over a batch the minimiser is (W - lr g)(I + lr c X^T X)^-1, X (N, d) the inputs, g the gradient that
      stands in `.grad` (clipped or not); solved in the smaller of N and d.
    * "mean": the same sum of erases, each with its own one-sample rate r_i: W (I - c sum_i r_i x_i x_i^T) - mean(r) g.
      A named approximation, not the minimiser; where all |x_i| are equal it is the mean of the one-sample steps.
    * "off": gradient descent.

    `reduction` says how the loss takes samples together: "mean" c = 1 / N, "sum" c = 1 ("mean" erases of a summed loss
    may overshoot). N counts every row that a layer was given since the last step, over all micro-batches.

    What it settles at: y = u, every output as large as its own error. It is gradient descent on L + c sum |y|^2 / 2. A
    loss (W x - v)^2 / 2 therefore ends at W x = v / 2, erased twice, by its own gradient and by DGD, and the logits
    of a cross-entropy never pass 1. `strength` (ours) weakens the erase: the sum above takes strength * c for c, the
    fixed point becomes v / (1 + strength), and 0 is gradient descent.

    Inputs come from hooks on the `nn.Linear` layers of `model`. Everything else (biases, norms, embeddings,
    convolutions) has no layer input here and takes plain gradient descent. `remove_hooks()` takes the hooks off; so
    does deleting the optimiser.
    """

    def __init__(
        self,
        params: Iterable,
        model: nn.Module,
        lr: float = 1e-2,
        erase: str = "exact",
        reduction: str = "mean",
        strength: float = 1.0,
        weight_decay: float = 0.0,
    ):
        if not isinstance(model, nn.Module):
            raise CourseError(f"DeltaGradientDescent needs the model that it watches, not {type(model).__name__}.")
        self.inputs = LayerInputs(model)
        super().__init__(params, lr, weight_decay, foreach=False, erase=erase, reduction=reduction, strength=strength)
        erases = any(group["erase"] != "off" for group in self.param_groups)
        if erases and not self.inputs.watch(()):
            self.inputs.remove()
            raise CourseError("no nn.Linear layer of the model has its weight among the parameters: nothing to erase.")
        weakref.finalize(self, self.inputs.remove)

    def check(self, group: dict[str, Any]) -> None:
        check_choice("erase", group["erase"], ERASES)
        check_choice("reduction", group["reduction"], REDUCTIONS)
        check_min("strength", group["strength"], 0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if self.param_groups[-1]["erase"] != "off":
            self.inputs.watch(self.param_groups[-1]["params"])

    def remove_hooks(self) -> None:
        """Takes the hooks off the model; from then on every step is plain gradient descent."""
        self.inputs.remove()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.inputs.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = super().step(closure)
        self.inputs.clear()
        return loss

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        decay(group, params)
        for W in params:
            X = self.inputs.of(W) if group["erase"] != "off" else None
            if X is None:
                W.add_(W.grad, alpha=-group["lr"])
                continue
            weight = group["strength"] / (len(X) if group["reduction"] == "mean" else 1)
            rule = exact_step if group["erase"] == "exact" else mean_step
            W.copy_(rule(W, W.grad, X, group["lr"], weight))


def exact_step(W: Tensor, g: Tensor, X: Tensor, lr: float, weight: float) -> Tensor:
    """(W - lr g)(I + lr weight X^T X)^-1 for W, g (o, d), X (N, d); in float32 at least, since that is solved."""
    dtype = torch.promote_types(W.dtype, torch.float32)
    V, X, a = W.to(dtype) - lr * g.to(dtype), X.to(dtype), lr * weight
    samples, width = X.shape
    if width <= samples:
        return solve(a * X.T @ X, V.T).T.to(W.dtype)
    # The same by the smaller system (Woodbury): (I + a X^T X)^-1 = I - a X^T (I + a X X^T)^-1 X.
    return (V - a * solve(a * X @ X.T, X @ V.T).T @ X).to(W.dtype)


def solve(gram: Tensor, right: Tensor) -> Tensor:
    """(I + gram)^-1 right, for a positive semi-definite gram. The system is never near singular, so no check waits
    for a GPU."""
    gram.diagonal().add_(1)
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(gram, check_errors=False).L)


def mean_step(W: Tensor, g: Tensor, X: Tensor, lr: float, weight: float) -> Tensor:
    """W (I - weight sum_i r_i x_i x_i^T) - mean(r) g with r_i = lr / (1 + lr |x_i|^2)."""
    rates = lr / (1 + lr * X.square().sum(1))
    scaled = weight * rates[:, None] * X
    samples, width = X.shape
    erased = W @ (scaled.T @ X) if width <= samples else (W @ scaled.T) @ X
    return W - erased - rates.mean() * g
