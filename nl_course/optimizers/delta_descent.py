"""Delta gradient descent (DGD): a layer as a memory of its own errors that erases before it writes.

    W <- argmin_W |W x - u|^2 / 2 + |W - W_t|_F^2 / (2 lr)      u = -dL/dy held fixed          N27-N28, E56

W is a layer's weight (o, d), x its input and y = W x its output; a batch of inputs is X (N, d), one in each row.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_min
from nl_course.optimizers.base import Descent, apply_weight_decay
from nl_course.optimizers.layer_inputs import LayerInputs

ERASES = ("exact", "mean", "off")
REDUCTIONS = ("mean", "sum")


class DeltaGradientDescent(Descent):
    """Gradient descent that first erases what the layer answers to the same input.

    The memory is the layer itself, y = W x: its keys are the layer's inputs x, its values the errors u. Gradient
    descent minimizes -<W x, u> in place of the square. What DGD adds is that what is stored under x is erased first.

    One sample: W (I - r x x^T) + r u x^T with r = lr / (1 + lr |x|^2). (The paper prints lr / (1 + lr), right for
    |x| = 1 only, and in N28 an erase without a rate.) `erase`:

    * "exact": over a batch the minimizer is (W - lr g)(I + lr c X^T X)^-1, with X (N, d) the inputs and g the gradient
      that stands in `.grad`, clipped or not. It is solved in the smaller of N and d.
    * "mean": the same sum of erases, each with its own one-sample rate r_i: W (I - c sum_i r_i x_i x_i^T) - mean(r) g.
      A named approximation, not the minimizer. Where all |x_i| are equal it is the mean of the one-sample steps.
    * "off": gradient descent.

    `reduction` says how the loss takes samples together: with "mean" c = 1 / N, with "sum" c = 1 ("mean" erases of a
    summed loss may overshoot). N counts every row that a layer was given since the last step, over all micro-batches.

    What it settles at: y = u, every output as large as its own error. It is gradient descent on L + c sum |y|^2 / 2. A
    loss (W x - v)^2 / 2 therefore ends at W x = v / 2, erased twice, by its own gradient and by DGD; and the logits
    of a cross-entropy never pass 1. `strength` (ours) weakens the erase: strength * c takes the place of c, the fixed
    point becomes v / (1 + strength), and 0 is gradient descent.

    Inputs come from hooks on the `nn.Linear` layers of `model`. Everything else (biases, norms, embeddings,
    convolutions) has no layer input here and takes plain gradient descent. `remove_hooks()` takes the hooks off, and so
    does deleting the optimizer.

    State: no elements. The inputs of a step are kept from its forward pass until the step.
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
    ) -> None:
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
        """Raises CourseError for an erase, a reduction or a strength that makes no sense."""
        check_choice("erase", group["erase"], ERASES)
        check_choice("reduction", group["reduction"], REDUCTIONS)
        check_min("strength", group["strength"], 0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, and watches the linear layers whose weights are in it unless it does not erase."""
        super().add_param_group(param_group)
        if self.param_groups[-1]["erase"] != "off":
            self.inputs.watch(self.param_groups[-1]["params"])

    def remove_hooks(self) -> None:
        """Takes the hooks off the model; from then on every step is plain gradient descent."""
        self.inputs.remove()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, and the inputs that belong to them."""
        super().zero_grad(set_to_none)
        self.inputs.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step, after which the inputs are forgotten; a closure as in `Descent.step`."""
        loss = super().step(closure)
        self.inputs.clear()
        return loss

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """DGD for each weight whose inputs were seen, plain gradient descent for all else; in place."""
        apply_weight_decay(group, params)
        rule = exact_step if group["erase"] == "exact" else mean_step
        for W in params:
            X = self.inputs.of(W) if group["erase"] != "off" else None  # (N, d)
            if X is None:
                W.add_(W.grad, alpha=-group["lr"])
                continue
            samples = len(X) if group["reduction"] == "mean" else 1
            W.copy_(rule(W, W.grad, X, group["lr"], group["strength"] / samples))


def exact_step(W: Tensor, g: Tensor, X: Tensor, lr: float, weight: float) -> Tensor:
    """(W - lr g)(I + lr weight X^T X)^-1 for W, g (o, d) and X (N, d), E56 over a batch; `weight` is c times strength.

    It is computed in float32 at least, since a system is solved, and comes back in W's dtype.
    """
    dtype = torch.promote_types(W.dtype, torch.float32)
    V = W.to(dtype) - lr * g.to(dtype)  # (o, d)
    X = X.to(dtype)
    a = lr * weight
    samples, width = X.shape
    if width <= samples:
        return solve(a * X.T @ X, V.T).T.to(W.dtype)
    # The same by the smaller system (Woodbury): (I + a X^T X)^-1 = I - a X^T (I + a X X^T)^-1 X.
    solved = solve(a * X @ X.T, X @ V.T)  # (N, o)
    return (V - a * solved.T @ X).to(W.dtype)


def solve(gram: Tensor, right: Tensor) -> Tensor:
    """(I + gram)^-1 right, for a positive semi-definite gram, which is overwritten.

    The system is never near singular, so no check waits for a GPU.
    """
    gram.diagonal().add_(1)
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(gram, check_errors=False).L)


def mean_step(W: Tensor, g: Tensor, X: Tensor, lr: float, weight: float) -> Tensor:
    """W (I - weight sum_i r_i x_i x_i^T) - mean(r) g with r_i = lr / (1 + lr |x_i|^2), for W, g (o, d) and X (N, d)."""
    rates = lr / (1 + lr * X.square().sum(1))  # (N,)
    scaled = weight * rates[:, None] * X  # (N, d)
    samples, width = X.shape
    erased = W @ (scaled.T @ X) if width <= samples else (W @ scaled.T) @ X  # (o, d), by the smaller product
    return W - erased - rates.mean() * g
