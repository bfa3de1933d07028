"""Titans for the tests: small layers with nothing left at its start value, and the paper's equations written out."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import gelu, sigmoid, silu

from nl_course.memories import Titans, TitansConfig
from nl_course.memories.titans.chunk import Gates
from tests.memories.ttt_tools import draw


def layer(
    path: str = "auto",
    width: int = 8,
    heads: int = 2,
    spread: float = 0.3,
    start: float = 0.0,
    kind: type[Titans] = Titans,
    **options,
) -> Titans:
    """A float64 layer, the same for the same arguments; parameters moved from their start by `spread`, and the inner
    network's by `start` more."""
    torch.manual_seed(0)
    options = dict(expansion=2, chunk=4, conv=3, persistent=3) | options
    memory = kind(TitansConfig(width, heads, **options), path=path).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for weight in memory.neural.start.values():
            weight.add_(start * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return memory


def twin(memory: Titans, path: str = "auto", kind: type[Titans] | None = None, **options) -> Titans:
    """The same weights in a layer with another path or other options, or of another kind."""
    other = (kind or type(memory))(replace(memory.config, **options), path=path).double()
    other.load_state_dict(memory.state_dict())
    return other


def bare(zero: bool = False, **options) -> Titans:
    """One matrix a head, no persistent tokens and no convolution: for `learn`."""
    memory = layer(**(dict(layers=1, chunk=1, conv=0, persistent=0) | options))
    if zero:
        with torch.no_grad():
            for weight in memory.neural.start.values():
                weight.zero_()
    return memory


def learn(memory: Titans, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state=None):
    """The inner loop alone: y (b, h, t, f) for q, k, v (b, h, t, f) and gates (b, h, t); and the neural state."""
    return memory.neural.learn(q, k, v, gates, state or memory.neural.init_state(q.shape[0]))


def some_gates(*shape: int, largest: float = 0.5, seed: int = 9) -> Gates:
    """Random steps below `largest`, momenta and retentions in (0, 1)."""
    step, eta, keep = (draw(*shape, seed=seed + i).sigmoid() for i in range(3))
    return Gates(largest * step, eta.log(), keep.log())


def constant_gates(shape: tuple, step: float) -> Gates:
    """The same step for every token, no momentum, nothing forgotten."""
    return Gates(torch.full(shape, step, dtype=torch.float64), None, None)


def network(config: TitansConfig, weights: dict, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """f(x; M) of one head: x (f) -> (f)."""
    y = x
    for i in range(1, config.layers + 1):
        y = y @ weights[f"W{i}"]
        if config.bias:
            y = y + weights[f"b{i}"][0]
        if i < config.layers:
            y = silu(y) if config.activation == "silu" else gelu(y, approximate="tanh")
    if config.norm:
        y = gain * (y - y.mean()) / (y.var(unbiased=False) + 1e-6).sqrt() + shift
    return x + y if config.residual else y


def surprise(config: TitansConfig, anchor: dict, k: Tensor, v: Tensor, gain: Tensor, shift: Tensor) -> dict:
    """grad |f(k; M) - v|^2 / 2 with respect to M, by autograd."""
    at = {name: w if w.requires_grad else w.detach().requires_grad_() for name, w in anchor.items()}
    loss = (network(config, at, k, gain, shift) - v).square().sum() / 2
    return dict(zip(at, torch.autograd.grad(loss, list(at.values()), create_graph=True)))


def by_hand(memory: Titans, x: Tensor) -> tuple[Tensor, list]:
    """The whole layer from the equations, one row, one head and one token at a time: y (B, T, d), and every row's
    heads' (M, S) at the end."""
    rows, ends = zip(*(_one_text(memory, text) for text in x))
    return torch.stack(rows), list(ends)


def _one_text(memory: Titans, text: Tensor) -> tuple[Tensor, list]:
    c, n, f = memory.config, memory.neural, memory.config.head_dim
    tokens = text if memory.persistent is None else torch.cat([memory.persistent, text])
    q, k, v = (_projected(n, name, tokens) for name in ("query", "key", "value"))
    reads, ends = [], []
    for h in range(c.heads):
        own = slice(h * f, (h + 1) * f)
        gain, shift = (n.gain[h, 0], n.shift[h, 0]) if c.norm else (None, None)
        M = {name: w[h] for name, w in n.start.items()}
        S, y = {name: torch.zeros_like(w) for name, w in M.items()}, []
        for t in range(len(tokens)):
            if t % c.chunk == 0:
                anchor = M
            theta, eta, alpha = (_gate(gate, tokens[t], h) for gate in (n.step, n.past, n.forget))
            key, query = (u[t, own] / (u[t, own].square().sum() + 1e-6).sqrt() for u in (k, q))
            u = surprise(c, anchor, key, v[t, own], gain, shift)
            S = {name: eta * S[name] - c.largest_step * theta * u[name] for name in S}
            M = {name: (1 - alpha) * M[name] + S[name] for name in M}
            y.append(network(c, M, query, gain, shift))
        reads.append(torch.stack(y))
        ends.append((M, S))
    read = torch.cat(reads, dim=1)[len(tokens) - len(text) :]
    normed = read / (read.square().mean(1, keepdim=True) + 1e-6).sqrt() * memory.read_norm.weight
    return (normed * silu(text @ memory.gate.weight.T)) @ memory.output.weight.T, ends


def _projected(neural, name: str, tokens: Tensor) -> Tensor:
    rows = tokens @ getattr(neural, name).weight.T
    if neural.config.conv:
        conv, width = getattr(neural, f"conv_{name}"), neural.config.conv
        before = torch.cat([rows.new_zeros(width - 1, rows.shape[1]), rows])
        rows = torch.stack([conv.bias + (conv.weight.T * before[t : t + width]).sum(0) for t in range(len(tokens))])
    return silu(rows)


def _gate(gate, token: Tensor, h: int) -> Tensor | float:
    return 0.0 if gate is None else sigmoid(token @ gate.weight[h] + gate.bias[h])
