"""What ours is measured against: TTT layers as the authors' PyTorch code computes them, in our own words.

One mini-batch after another, each in its dual form, every operation left to autograd: a plain Python loop whose graph
keeps all that every mini-batch made. That code is meant to be read and not to be fast (its authors say so and train
with their JAX code), which makes it the fair measure of what a hand-written backward pass gains. The steps follow that
code one by one: masks made anew in each mini-batch, step sizes spread over all pairs of tokens, the closed-form
gradient from elementary operations. Only its decoding cache is left out.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

_C = (2 / torch.pi) ** 0.5


class MiniBatchLoop(nn.Module):
    """x (B, T, width) -> (B, T, width), T a multiple of `size`. `mamba` shares the projection of q and k, with a
    convolution for each, and gates the output."""

    def __init__(self, width: int, heads: int, kind: str = "linear", mamba: bool = False, size: int = 16):
        super().__init__()
        self.heads = heads
        self.head_dim = f = width // heads
        self.size = size
        self.mlp = kind == "mlp"
        self.mamba = mamba
        hidden = 4 * f if self.mlp else f
        self.W1 = nn.Parameter(0.02 * torch.randn(heads, f, hidden))
        self.b1 = nn.Parameter(torch.zeros(heads, 1, hidden))
        if self.mlp:
            self.W2 = nn.Parameter(0.02 * torch.randn(heads, hidden, f))
            self.b2 = nn.Parameter(torch.zeros(heads, 1, f))
        self.query, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(3))
        if mamba:
            convs = (nn.Conv1d(width, width, 4, groups=width, padding=3) for _ in range(2))
            self.conv_query, self.conv_key = convs
            self.gate = nn.Linear(width, width, bias=False)
        else:
            self.key = nn.Linear(width, width, bias=False)
        self.rate = nn.Parameter(0.02 * torch.randn(heads, width, 1))
        self.rate_bias = nn.Parameter(torch.zeros(heads, 1))
        self.position_offset = nn.Parameter(torch.zeros(size))
        self.gain = nn.Parameter(torch.ones(heads, f))
        self.shift = nn.Parameter(torch.zeros(heads, f))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, t, d) -> (b, t, d); n mini-batches of k tokens."""
        rows, tokens, width = x.shape
        count = tokens // self.size
        q, k, v = (u.reshape(rows, tokens, self.heads, self.head_dim).transpose(1, 2) for u in self._project(x))
        q = self._rotate(q)
        k = self._rotate(k)
        chunks = x.reshape(rows, count, self.size, width)  # (b, n, k, d)
        rate = torch.einsum("bnkc,hdc->bhnkd", chunks, self.rate.mT) + self.rate_bias.reshape(1, -1, 1, 1, 1)
        rate = torch.sigmoid(rate).permute(0, 1, 2, 4, 3) / self.head_dim
        i = torch.arange(1, self.size + 1, device=x.device)
        factor = torch.clamp_min(1 / i + self.position_offset, 0.0)
        factor = factor.reshape(1, 1, 1, self.size, 1).expand(rows, self.heads, count, self.size, 1)  # (b, h, n, k, 1)
        parts = [u.reshape(rows, self.heads, count, self.size, self.head_dim) for u in (q, k, v)] + [factor * rate]
        parts = [u.permute(2, 0, 1, 3, 4) for u in parts]  # (n, b, h, k, ...)
        names = ("W1", "b1", "W2", "b2") if self.mlp else ("W1", "b1")
        weights = {name: getattr(self, name).unsqueeze(0).repeat(rows, 1, 1, 1) for name in names}
        outputs = torch.empty_like(parts[0])
        for i in range(count):
            weights, outputs[i] = self._mini_batch(weights, *(part[i] for part in parts))
        y = self.post_norm(outputs.permute(1, 0, 3, 2, 4).reshape(rows, tokens, width))
        if self.mamba:
            y = gelu(self.gate(x), approximate="tanh") * y
        return self.output(y)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.mamba:
            return self.query(x), self.key(x), self.value(x)
        shared = self.query(x).transpose(1, 2)
        q, k = (conv(shared)[..., : x.shape[1]].transpose(1, 2) for conv in (self.conv_query, self.conv_key))
        return q, k, self.value(x)

    def _rotate(self, u: Tensor) -> Tensor:
        """Rotary features by halves, with a reorder before and after."""
        shape, half = u.shape, self.head_dim // 2
        u = u.reshape(*shape[:-1], half, 2).transpose(3, 4).reshape(shape)
        frequency = 10_000.0 ** (-torch.arange(half, device=u.device) / half)
        angle = torch.outer(torch.arange(shape[2], device=u.device) % self.size, frequency).repeat(1, 2)
        u = u * angle.cos() + torch.cat([-u[..., half:], u[..., :half]], dim=-1) * angle.sin()
        return u.reshape(*shape[:-1], 2, half).transpose(3, 4).reshape(shape)

    def _mini_batch(self, weights: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, eta: Tensor):
        """q, k, v (b, h, t, f), eta (b, h, t, t) -> the next weights, and z (b, h, t, f)."""
        gain, shift = (u.reshape(self.heads, 1, self.head_dim) for u in (self.gain, self.shift))
        first = k @ weights["W1"] + weights["b1"]
        if self.mlp:
            hidden = gelu(first, approximate="tanh")
            error = _gradient(hidden @ weights["W2"] + weights["b2"], v - k, gain, shift)
            first_error = error @ weights["W2"].mT * _slope(first)
        else:
            error = first_error = _gradient(first, v - k, gain, shift)
        after: dict[str, Tensor] = {}
        z = _learn(after, "1", weights, q, k, first_error, eta)
        if self.mlp:
            z = _learn(after, "2", weights, gelu(z, approximate="tanh"), hidden, error, eta)
        return after, q + (gain * _unit(z)[0] + shift)


def _learn(after: dict, layer: str, weights: dict, x: Tensor, a: Tensor, e: Tensor, eta: Tensor) -> Tensor:
    """One layer's answer to x in the dual form, its next weights put into `after`."""
    weight, bias = weights["W" + layer], weights["b" + layer]
    products = torch.tril(x @ a.transpose(-2, -1))
    moved_bias = bias - torch.tril(eta) @ e
    z = x @ weight - (eta * products) @ e + moved_bias
    last = eta[:, :, -1, :, None]
    after["W" + layer] = weight - (last * a).transpose(-1, -2) @ e
    after["b" + layer] = bias - torch.sum(last * e, dim=-2, keepdim=True)
    return z


def _unit(z: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = z.mean(dim=-1, keepdim=True), z.var(dim=-1, keepdim=True, unbiased=False)
    deviation = torch.sqrt(variance + 1e-6)
    return (z - mean) / deviation, deviation


def _gradient(z: Tensor, target: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    unit, deviation = _unit(z)
    width = z.shape[-1]
    g = (gain * unit + shift - target) * gain
    inner = width * g - g.sum(dim=-1, keepdim=True) - unit * (g * unit).sum(dim=-1, keepdim=True)
    return (1.0 / width) * inner / deviation


def _slope(x: Tensor) -> Tensor:
    tau = torch.tanh(_C * x * (1 + 0.044715 * x * x))
    return 0.5 * x * ((1 - tau * tau) * (_C + 3 * 0.044715 * _C * x * x)) + 0.5 * (1 + tau)
