"""The inner loops with every ablation, restated one row, head, token and pair at a time, with plain autograd."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from tests.memories.titans_tools import network


def grads(config, W: dict, k: Tensor, v: Tensor, norm: tuple) -> dict:
    """grad |f(k; W) - v|^2 / 2, differentiable again."""
    at = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in W.items()}
    loss = (network(config, at, k, *norm) - v).square().sum() / 2
    return dict(zip(at, torch.autograd.grad(loss, list(at.values()), create_graph=True)))


def inner_loop(config, s, start, norm, chunk, q, k, v, write) -> Tensor:
    """One head: what tokens q, k, v (t, f) read. `write(M, S, U, j, i)` is one pair's step: (M, S) after pair j of the
    chunk, U the sum of its gradients, as the chunk's token i sees it."""
    M, S, answers = start, {n: torch.zeros_like(w) for n, w in start.items()}, []
    last = str(config.layers)
    for begin in range(0, len(q), chunk):
        anchor, M0, S0 = M, M, S
        for i, t in enumerate(range(begin, min(begin + chunk, len(q)))):
            W, sums = anchor, [dict.fromkeys(anchor, 0) for _ in range(i + 1)]
            for _ in range(s.inner_steps):
                for j, U in enumerate(sums):
                    found = grads(config, W, k[begin + j], v[begin + j], norm)
                    sums[j] = {n: U[n] + s.sign * found[n] for n in U}
                M, S = M0, S0
                for j, U in enumerate(sums):
                    after, S = write(M, S, U, begin, j, i)
                    M = {n: w if n.endswith(last) or not s.last_layer_only else M[n] for n, w in after.items()}
                W = M
            answers.append(network(config, M, k[t] if s.read_with == "key" else q[t], *norm))
    return torch.stack(answers)


class Shape:
    """What `network` asks of a config."""

    def __init__(self, inner):
        self.layers, self.bias, self.norm, self.residual = inner.layers, inner.bias, inner.norm, inner.residual
        self.activation = inner.activation


def by_head(memory, start, gain, shift, rows, loop) -> Tensor:
    """loop(start, norm, head, *one row's and head's) for every row and head, joined to (b, t, d)."""
    found = []
    for row in zip(*rows):
        heads = []
        for h in range(memory.config.heads):
            norm = (None, None) if gain is None else (gain[h, 0], shift[h, 0])
            heads.append(loop({n: w[h] for n, w in start.items()}, norm, h, *(u[h] for u in row)))
        found.append(torch.cat(heads, dim=1))
    return torch.stack(found)


def ttt(memory, x: Tensor, s) -> Tensor:
    """The whole layer: y (b, t, d)."""
    c = memory.config
    q, k, v, _ = memory._project(x, memory.init_state(len(x)))
    q, k, v = (u.unflatten(-1, (c.heads, -1)).transpose(1, 2) for u in (q, k, v))
    q, k = (memory.rotary(u, 0, c.mini_batch) for u in (q, k))
    logit = x @ memory.rate.weight.T * s.learning_rate_per_token + memory.rate.bias
    rate = c.base_rate / c.head_dim * torch.sigmoid(logit).mT
    factor = (1 / torch.arange(1, c.mini_batch + 1, dtype=x.dtype) + memory.position_offset).clamp_min(0)

    def loop(start, norm, _, q, k, v, rate):
        def write(M, S, U, begin, j, i):
            return {n: M[n] - factor[i] * rate[begin + j] * U[n] for n in M}, S

        return inner_loop(Shape(memory.inner), s, start, norm, c.mini_batch, q, k, v, write)

    z = by_head(memory, memory.start, memory.gain, memory.shift, (q, k, v, rate), loop)
    return memory.output(memory.post_norm(z) * torch.nn.functional.gelu(memory.gate(x), approximate="tanh"))


def titans(memory, x: Tensor, s) -> Tensor:
    n = memory.neural
    (q, k, v), _ = n.project(x, n.init_conv_states(len(x), "qkv"), "qkv")
    theta = n.config.largest_step * torch.sigmoid(x @ n.step.weight.T * s.learning_rate_per_token + n.step.bias).mT
    eta = torch.sigmoid(n.past(x)).mT * s.momentum
    keep = 1 - torch.sigmoid(n.forget(x)).mT

    def loop(start, norm, _, q, k, v, theta, eta, keep):
        def write(M, S, U, begin, j, i):
            t = begin + j
            S = {n: eta[t] * S[n] - theta[t] * U[n] for n in S}
            return {n: keep[t] * M[n] + S[n] for n in M}, S

        return inner_loop(Shape(n.inner), s, start, norm, n.config.chunk, q, k, v, write)

    gain, shift = (n.gain, n.shift) if n.config.norm else (None, None)
    z = by_head(memory, n.start, gain, shift, (q, k, v, theta, eta, keep), loop)
    return memory.output(memory.read_norm(z) * silu(memory.gate(x)))


# -- self-modifying Titans -----------------------------------------------------------------------------------------
def modifying(memory, x: Tensor, s) -> Tensor:
    c = memory.config
    u, _ = memory.conv(x, memory.conv.init_state(len(x)))
    q = memory.query(u).unflatten(-1, (c.heads, -1))
    rows = []
    for b in range(len(x)):
        heads = [_one_head(memory, s, h, u[b].unflatten(-1, (c.heads, -1))[:, h], q[b, :, h]) for h in range(c.heads)]
        rows.append(torch.cat(heads, dim=1))
    return memory.output(memory.norm(torch.stack(rows)) * silu(memory.gate(x)))


def _say(M: dict, z: Tensor) -> Tensor:
    if "into" not in M:
        return z @ M["out"]
    y = silu(z @ M["into"]) @ M["out"]
    return y if y.shape[-1] == 1 else z + y


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum() + 1e-6).sqrt()


def _one_head(memory, s, h: int, u: Tensor, q: Tensor) -> Tensor:
    c, beta = memory.config, memory.config.momentum * s.momentum
    now = {n: {p: memory.start[f"{n}_{p}"][h] for p in ("into", "out") if f"{n}_{p}" in memory.start} for n in c.names}
    S, answers = {n: {p: torch.zeros_like(w) for p, w in M.items()} for n, M in now.items()}, []
    for begin in range(0, len(u), c.chunk):
        anchor, first, pairs = now, S, []
        for t in range(begin, min(begin + c.chunk, len(u))):
            z = u[t] / c.head_dim**0.5
            said = {n: _say(anchor[n], z) for n in c.names if n != "memory"}
            k, v = _unit(said["key"]), said["value"] / (1 + said["value"].square().sum()).sqrt()
            eta = c.max_step * torch.sigmoid(said["step"] * s.learning_rate_per_token + memory.step_bias[h])
            alpha = torch.sigmoid(said["retention"] + memory.retention_bias[h])
            pairs.append((k, v, eta, alpha))
            moved = {n: _moved(s, c.erase, beta, anchor[n], first[n], pairs) for n in c.names}
            now, S = ({n: both[i] for n, both in moved.items()} for i in (0, 1))
            reads = now if c.read == "running" else anchor
            answers.append(_say(reads["memory"], k if s.read_with == "key" else _unit(q[t])))
    return torch.stack(answers)


def _moved(s, erase: str, beta: float, anchor: dict, first: dict, pairs: list) -> tuple[dict, dict]:
    W, sums = anchor, [dict.fromkeys(anchor, 0) for _ in pairs]
    for _ in range(s.inner_steps):
        for j, (k, v, _, _) in enumerate(pairs):
            at = {p: w if w.requires_grad else w.detach().requires_grad_() for p, w in W.items()}
            at = {p: w.view_as(w) for p, w in at.items()}
            loss = (_say(at, k) - _say(anchor, v)).square().sum() / 2
            found = torch.autograd.grad(loss, list(at.values()), create_graph=True)
            sums[j] = {p: U + g for (p, U), g in zip(sums[j].items(), found)}
        W, S = dict(anchor), dict(first)
        for (k, _, eta, alpha), U in zip(pairs, sums):
            for part in [p for p in W if not (s.last_layer_only and p == "into")]:
                second = part == "out" and "into" in anchor
                a = silu(k @ anchor["into"]) if second else k
                eps = eta / (a.square().sum() + 1e-6) if second else eta
                S[part] = beta * S[part] - s.sign * eta * U[part]
                W[part] = alpha * W[part] - eps * torch.outer(a, a @ W[part]) + S[part]
    return W, S
