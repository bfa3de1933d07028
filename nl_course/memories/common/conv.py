"""A short causal convolution, a few taps a feature, that can be cut anywhere in time.

    y_t = sum_{i = 0 .. k-1} w_i * x_{t - (k-1) + i}  (+ bias),    elementwise: k weights a feature

Modern recurrent memories put one of width 4 behind their projections: it lets a key be made of neighbouring
tokens, so that one layer can store "A, then B" and answer "after A?" (the shift of H3, arXiv 2212.14052; the
convolution of Mamba, arXiv 2312.00752). To go on exactly after a cut it must remember the last k - 1 inputs,
its `tail`.
Axes: b batch, t time, d features. The last weight, w_{k-1}, is that of the token itself.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nl_course.errors import check_choice, check_int
from nl_course.memories.common.custom_vjp import Operation, raw

ACTIVATIONS = ("none", "silu")


def _plain(tail: Tensor, x: Tensor, taps: Tensor, bias: Tensor) -> tuple[Tensor]:
    """bias + sum of k shifted copies of [tail, x], each times its tap: x (B, T, width), tail (B, k - 1, width), taps
    (k, width) -> (B, T, width)."""
    seen, y = torch.cat([tail, x], dim=1), bias
    for i, tap in enumerate(taps.unbind()):
        y = torch.addcmul(y, seen[:, i : i + x.shape[1]], tap)
    return (y,)


def _forward(tail: Tensor, x: Tensor, taps: Tensor, bias: Tensor, keep: bool) -> tuple[tuple[Tensor], None]:
    """The text alone, as if zeros stood before it, then what the tail adds to its first tokens: nothing is copied."""
    last, tokens = len(taps) - 1, x.shape[1]
    y = torch.addcmul(bias, x, taps[last])
    for back in range(1, min(last, tokens - 1) + 1):
        y[:, back:].addcmul_(x[:, :-back], taps[last - back])
    start, before = y[:, :last], _before(tail, tokens)
    for i in range(last):
        start.addcmul_(before[:, i : i + start.shape[1]], taps[i])
    return (y,), None


def _backward(given, kept, cotangents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (tail, x, taps, _), (d_y,) = given, cotangents
    last, tokens = len(taps) - 1, x.shape[1]
    d_x, d_taps = d_y * taps[last], torch.zeros_like(taps)
    d_taps[last] = (d_y * x).sum((0, 1))
    for back in range(1, min(last, tokens - 1) + 1):
        d_x[:, :-back].addcmul_(d_y[:, back:], taps[last - back])
        d_taps[last - back] = (d_y[:, back:] * x[:, :-back]).sum((0, 1))
    d_start, before = d_y[:, :last], _before(tail, tokens)
    d_before = torch.zeros_like(before, dtype=d_y.dtype)
    for i in range(last):
        window = slice(i, i + d_start.shape[1])
        d_before[:, window].addcmul_(d_start, taps[i])
        d_taps[i] += (d_start * before[:, window]).sum((0, 1))
    return d_before[:, :last].to(x.dtype), d_x.to(x.dtype), d_taps, d_y.sum((0, 1))


def _before(tail: Tensor, tokens: int) -> Tensor:
    """The tail and zeros after it, as far as the first k - 1 of the tokens see."""
    return pad(tail, (0, 0, 0, min(tokens, tail.shape[1])))


# On a CPU faster there and back than `conv1d` with a group for each feature, and than autograd's way through the sum.
_SUM = Operation(_plain, _forward, _backward)


class CausalConv(nn.Module):
    """Depthwise causal convolution: (x (B, T, width), tail) -> (y (B, T, width), the next tail), any T >= 0.

    `weight` is (width, kernel): a `Conv1d` weight (width, 1, kernel) of other code, squeezed. `activation` is
    "none" or "silu". It starts as `Conv1d` does, uniform within 1 / sqrt(kernel).
    """

    def __init__(self, width: int, kernel: int = 4, bias: bool = True, activation: str = "none"):
        super().__init__()
        self.width, self.kernel = check_int("width", width, 1), check_int("kernel", kernel, 1)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(width, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound)) if bias else None

    @property
    def tail_size(self) -> int:
        """Numbers that the tail holds for one row of the batch."""
        return (self.kernel - 1) * self.width

    def init_tail(self, batch_size: int) -> Tensor:
        """What stands before the first token: zeros (B, kernel - 1, width)."""
        return self.weight.new_zeros(batch_size, self.kernel - 1, self.width)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, width) after tail (B, kernel - 1, width), oldest first."""
        tail, wide = tail.to(x.dtype), torch.promote_types(x.dtype, torch.float32)
        taps = self.weight.to(wide).T.contiguous()
        bias = taps.new_zeros(self.width) if self.bias is None else self.bias.to(wide)
        (y,) = raw(_SUM, tail, x, taps, bias)
        if self.activation == "silu":
            y = silu(y)
        last = torch.cat([tail, x[:, max(0, x.shape[1] - tail.shape[1]) :]], dim=1)
        # A copy, so that a state of a few numbers does not keep a whole text alive.
        return y.to(x.dtype), last[:, last.shape[1] - tail.shape[1] :].clone()
