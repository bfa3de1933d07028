"""The TTT authors' PyTorch layer, said again in our own words, for comparison only.

It follows that code's steps, not our file's: rotary features in halves with a reorder before and after, convolutions by
`conv1d`, one mini-batch after another by autograd, the remainder of a text as one shorter mini-batch. Weights are a
dict under that code's names.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv1d, gelu, layer_norm


def random_weights(
    kind: str, shared: bool, gate: bool, width: int = 16, heads: int = 2, size: int = 16, kernel: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """Weights under the official names, float64, nothing at its start value."""
    generator = torch.Generator().manual_seed(seed)
    f = width // heads

    def draw(*shape, scale=0.3, around=0.0):
        return around + scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {"ttt_norm_weight": draw(heads, f, around=1.0), "ttt_norm_bias": draw(heads, f)}
    if kind == "linear":
        weights |= {"W1": draw(heads, f, f), "b1": draw(heads, 1, f)}
    else:
        weights |= {"W1": draw(heads, f, 4 * f), "b1": draw(heads, 1, 4 * f)}
        weights |= {"W2": draw(heads, 4 * f, f), "b2": draw(heads, 1, f)}
    weights |= {"learnable_ttt_lr_weight": draw(heads, 1, width), "learnable_ttt_lr_bias": draw(heads, 1)}
    weights["learnable_token_idx"] = draw(size, scale=0.1)  # some places fall below zero and are clamped
    weights |= {f"{name}_proj.weight": draw(width, width) for name in ("q", "v", "o")}
    if gate:
        weights["g_proj.weight"] = draw(width, width)
    if shared:
        weights |= {f"conv_{name}.weight": draw(width, 1, kernel) for name in "qk"}
        weights |= {f"conv_{name}.bias": draw(width) for name in "qk"}
    else:
        weights["k_proj.weight"] = draw(width, width)
    return weights | {"post_norm.weight": draw(width, around=1.0), "post_norm.bias": draw(width)}


def layer(weights: dict[str, Tensor], x: Tensor, heads: int, base_lr: float = 1.0, theta: float = 1e4) -> Tensor:
    """x (B, T, d) -> y (B, T, d)."""
    rows, tokens, width = x.shape
    size, f = weights["learnable_token_idx"].shape[0], width // heads
    projected = x @ weights["q_proj.weight"].T
    if "k_proj.weight" in weights:
        queries, keys = projected, x @ weights["k_proj.weight"].T
    else:
        queries, keys = _convolved(weights, "conv_q", projected), _convolved(weights, "conv_k", projected)
    values = x @ weights["v_proj.weight"].T
    split = lambda u: u.reshape(rows, tokens, heads, f).transpose(1, 2)  # noqa: E731
    queries, keys, values = split(queries), split(keys), split(values)
    position = torch.arange(tokens) % size
    queries, keys = _turned(queries, position, theta), _turned(keys, position, theta)
    rates = torch.einsum("btc,hoc->bhto", x, weights["learnable_ttt_lr_weight"])[..., 0]
    rates = base_lr / f * torch.sigmoid(rates + weights["learnable_ttt_lr_bias"][None])
    places = torch.clamp_min(1 / torch.arange(1, size + 1, dtype=x.dtype) + weights["learnable_token_idx"], 0.0)

    names = [name for name in ("W1", "b1", "W2", "b2") if name in weights]
    fast = {name: weights[name].unsqueeze(0).repeat(rows, 1, 1, 1) for name in names}
    norm = weights["ttt_norm_weight"][:, None], weights["ttt_norm_bias"][:, None]
    outputs = []
    for start in range(0, tokens, size):
        part = slice(start, min(start + size, tokens))
        count = part.stop - start
        eta = torch.tril(places[:count, None] * rates[:, :, None, part])
        fast, output = _mini_batch(fast, queries[:, :, part], keys[:, :, part], values[:, :, part], eta, norm)
        outputs.append(output)
    y = torch.cat(outputs, dim=2).transpose(1, 2).reshape(rows, tokens, width)
    y = layer_norm(y, (width,), weights["post_norm.weight"], weights["post_norm.bias"], 1e-6)
    if "g_proj.weight" in weights:
        y = gelu(x @ weights["g_proj.weight"].T, approximate="tanh") * y
    return y @ weights["o_proj.weight"].T


def _convolved(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    padded = conv1d(x.transpose(1, 2), kernel, bias, padding=kernel.shape[-1] - 1, groups=x.shape[-1])
    return padded[..., : x.shape[1]].transpose(1, 2)


def _turned(u: Tensor, position: Tensor, theta: float) -> Tensor:
    """Even features first, odd features after, turned by halves, and put back."""
    shape, half = u.shape, u.shape[-1] // 2
    u = u.reshape(*shape[:-1], half, 2).transpose(-1, -2).reshape(shape)
    frequency = theta ** (-torch.arange(half, dtype=u.dtype) / half)
    angle = torch.outer(position.to(u.dtype), frequency).repeat(1, 2)
    rotated = torch.cat([-u[..., half:], u[..., :half]], dim=-1)
    u = u * angle.cos() + rotated * angle.sin()
    return u.reshape(*shape[:-1], 2, half).transpose(-1, -2).reshape(shape)


def _normalised(z: Tensor) -> tuple[Tensor, Tensor]:
    deviation = torch.sqrt(z.var(dim=-1, keepdim=True, unbiased=False) + 1e-6)
    return (z - z.mean(dim=-1, keepdim=True)) / deviation, deviation


def _mini_batch(fast, q, k, v, eta, norm) -> tuple[dict[str, Tensor], Tensor]:
    """One mini-batch in that code's dual form; eta (b, h, t, t) lower triangular."""
    gain, shift = norm
    hidden = [k @ fast["W1"] + fast["b1"]]
    if "W2" in fast:
        hidden.append(gelu(hidden[0], approximate="tanh") @ fast["W2"] + fast["b2"])
    unit, deviation = _normalised(hidden[-1])
    wrong = (gain * unit + shift - (v - k)) * gain
    size = wrong.shape[-1]
    error = size * wrong - wrong.sum(-1, keepdim=True) - unit * (wrong * unit).sum(-1, keepdim=True)
    error = error / size / deviation

    after, last = {}, eta[:, :, -1, :, None]

    def learn(layer, given, error, asked):
        weight, bias = fast[f"W{layer}"], fast[f"b{layer}"]
        after[f"W{layer}"] = weight - (last * given).mT @ error
        after[f"b{layer}"] = bias - (last * error).sum(dim=-2, keepdim=True)
        return asked @ weight - (eta * torch.tril(asked @ given.mT)) @ error + bias - eta @ error

    if "W2" in fast:
        x = hidden[0]
        tanh = torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))
        slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * (2 / torch.pi) ** 0.5 * (1 + 3 * 0.044715 * x**2)
        first = learn(1, k, error @ fast["W2"].mT * slope, q)
        answer = learn(2, gelu(x, approximate="tanh"), error, gelu(first, approximate="tanh"))
    else:
        answer = learn(1, k, error, q)
    return after, q + gain * _normalised(answer)[0] + shift
