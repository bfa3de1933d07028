"""A short causal convolution, a few taps per feature, that can be cut anywhere in time.

    y_t = sum_{i = 0 .. k-1} w_i * x_{t - (k-1) + i}  (+ bias),    elementwise: k weights per feature

Modern recurrent memories put one of width 4 behind their projections. It lets a key be made of neighboring tokens, so
that one layer can store "A, then B" and answer "after A?" (the shift of H3, arXiv 2212.14052; the convolution of Mamba,
arXiv 2312.00752). To continue exactly after a cut it must remember the last k - 1 inputs: its state.
Axes: b batch, t time, d features. The last weight, w_{k-1}, is that of the token itself.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nl_course.errors import check_choice, check_int
from nl_course.memories.common.custom_vjp import CustomVJP, custom_vjp
from nl_course.roles import BIAS, TAPS, Roles

ACTIVATIONS = ("none", "silu")


def _plain(state: Tensor, x: Tensor, taps: Tensor, bias: Tensor) -> tuple[Tensor]:
    """The bias and the sum of k shifted copies of [state, x], each times its tap: x (b, t, d), state (b, k - 1, d),
    taps (k, d) -> (b, t, d)."""
    seen = torch.cat([state, x], dim=1)  # (b, k - 1 + t, d)
    y = bias
    for i, tap in enumerate(taps.unbind()):
        y = torch.addcmul(y, seen[:, i : i + x.shape[1]], tap)
    return (y,)


def _forward(state: Tensor, x: Tensor, taps: Tensor, bias: Tensor, save: bool) -> tuple[tuple[Tensor], None]:
    last = len(taps) - 1
    tokens = x.shape[1]
    # The text alone first, as if zeros stood before it: joining state and text would copy the whole text.
    y = torch.addcmul(bias, x, taps[last])
    for back in range(1, min(last, tokens - 1) + 1):
        y[:, back:].addcmul_(x[:, :-back], taps[last - back])
    # The state reaches the first k - 1 tokens only.
    first = y[:, :last]
    before = _padded_state(state, tokens)
    for i in range(last):
        first.addcmul_(before[:, i : i + first.shape[1]], taps[i])
    return (y,), None


def _backward(
    inputs: tuple[Tensor, ...], saved: None, cotangents: tuple[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    state, x, taps, _ = inputs
    (d_y,) = cotangents
    last = len(taps) - 1
    tokens = x.shape[1]
    # The text's part of the sum, in the order of `_forward`.
    d_x = d_y * taps[last]
    d_taps = torch.zeros_like(taps)
    d_taps[last] = (d_y * x).sum((0, 1))
    for back in range(1, min(last, tokens - 1) + 1):
        d_x[:, :-back].addcmul_(d_y[:, back:], taps[last - back])
        d_taps[last - back] = (d_y[:, back:] * x[:, :-back]).sum((0, 1))
    # The state's part.
    d_first = d_y[:, :last]
    before = _padded_state(state, tokens)
    d_before = torch.zeros_like(before, dtype=d_y.dtype)
    for i in range(last):
        window = slice(i, i + d_first.shape[1])
        d_before[:, window].addcmul_(d_first, taps[i])
        d_taps[i] += (d_first * before[:, window]).sum((0, 1))
    return d_before[:, :last].to(x.dtype), d_x.to(x.dtype), d_taps, d_y.sum((0, 1))


def _padded_state(state: Tensor, tokens: int) -> Tensor:
    """The state and zeros after it, as far as the first k - 1 of the tokens see."""
    return pad(state, (0, 0, 0, min(tokens, state.shape[1])))


# On a CPU this is faster, forward and backward, than `conv1d` with a group per feature and than autograd on the sum.
_SUM_OF_TAPS = CustomVJP(_plain, _forward, _backward)


class CausalConv(nn.Module):
    """Depthwise causal convolution: (x (B, T, width), state) -> (y (B, T, width), the next state), any T >= 0.

    `weight` is (width, kernel): a `Conv1d` weight (width, 1, kernel) of other code, squeezed. `activation` is
    "none" or "silu". It starts as `Conv1d` does, uniform within 1 / sqrt(kernel).
    """

    param_roles: ClassVar[Roles] = {"weight": TAPS, "bias": BIAS}

    def __init__(self, width: int, kernel: int = 4, bias: bool = True, activation: str = "none"):
        super().__init__()
        self.width = check_int("width", width, 1)
        self.kernel = check_int("kernel", kernel, 1)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(width, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound)) if bias else None

    @property
    def state_size(self) -> int:
        """How many numbers the state holds per row of the batch."""
        return (self.kernel - 1) * self.width

    def init_state(self, batch_size: int) -> Tensor:
        """What stands before the first token: zeros (B, kernel - 1, width)."""
        return self.weight.new_zeros(batch_size, self.kernel - 1, self.width)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, width) after the inputs in state (B, kernel - 1, width), oldest first."""
        state = state.to(x.dtype)
        # Sums of products lose too much in half precision.
        accum_dtype = torch.promote_types(x.dtype, torch.float32)
        taps = self.weight.to(accum_dtype).T.contiguous()  # (kernel, width)
        bias = taps.new_zeros(self.width) if self.bias is None else self.bias.to(accum_dtype)
        (y,) = custom_vjp(_SUM_OF_TAPS, state, x, taps, bias)
        if self.activation == "silu":
            y = silu(y)
        count = state.shape[1]
        newest = torch.cat([state, x[:, max(0, x.shape[1] - count) :]], dim=1)  # (B, kernel - 1 + at most that, width)
        # A copy, so that a state of a few numbers does not keep a whole text alive.
        next_state = newest[:, newest.shape[1] - count :].clone()  # (B, kernel - 1, width)
        return y.to(x.dtype), next_state
