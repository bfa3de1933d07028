"""TTT-E2E stated a second time: its forward pass and inner loop on a flat dict of stacked arrays, one text at a time.

Every position is recomputed from the text's beginning with a mask; nothing is shared with the package but the names.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, silu

ROOT = "language_model/model/"
FAST = [f"{ROOT}h/prime_storage/feed_forward_prime/w{i}/weight" for i in (1, 2, 3)]


def random_params(layers: int, suffix: int, vocab: int, d: int, heads: int, f: int, prime: int, seed: int = 0):
    """Random arrays under the official names, float64; matrices about as large as a trained model's."""
    generator = torch.Generator().manual_seed(seed)
    block, fast = f"{ROOT}h/blocks/", f"{ROOT}h/prime_storage/"
    shapes = {f"{ROOT}wte": (vocab, d), f"{ROOT}ln_f": (d,)}
    shapes |= {f"{block}seq_modeling_block/{n}": (layers, d, d) for n in ("wq", "wk", "wv", "wo")}
    shapes |= {f"{block}seq_modeling_block/{n}": (layers, d // heads) for n in ("q_norm", "k_norm")}
    shapes |= {f"{block}{n}": (layers, d) for n in ("seq_norm", "seq_post_norm", "ffn_norm", "ffn_post_norm")}
    shapes |= {f"{fast}{n}": (suffix, d) for n in ("ffn_prime_norm", "ffn_prime_post_norm")}
    for at, n, h in ((f"{block}feed_forward", layers, f), (f"{fast}feed_forward_prime", suffix, prime)):
        shapes |= {f"{at}/w1": (n, d, h), f"{at}/w2": (n, h, d), f"{at}/w3": (n, d, h)}
    out = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        out[f"{name}/weight"] = 1 + 0.2 * noise if "norm" in name or "ln_f" in name else noise * d**-0.5
    return out


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain


def turn(x: Tensor, first: int, theta: float) -> Tensor:
    """Neighbouring features as complex numbers, times e^(i t theta^(-2 j / n)); x (heads, T, n) from position first."""
    n, t = x.shape[-1], torch.arange(first, first + x.shape[-2], dtype=torch.float64)
    angle = t[:, None] * theta ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def mlp(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    return (silu(x @ w1) * (x @ w3)) @ w2


def losses(params, tokens: Tensor, *, num_heads, window, chunk, inner_lr, inner_clip, rope_theta, rms_norm_eps):
    """tokens (T + 1,) -> the loss of each next token (T,), differentiable any number of times."""
    p = {name.removeprefix(ROOT).removesuffix("/weight").removeprefix("h/"): w for name, w in params.items()}
    fast, storage = [params[name] for name in FAST], "prime_storage/ffn_prime"
    layers, suffix = len(p["blocks/seq_norm"]), len(fast[0])
    cache = [None] * layers  # keys and values of earlier chunks, (heads, tokens, n)

    def run(ids: Tensor, first: int, fast: list[Tensor]) -> tuple[Tensor, list]:
        """The logits of a chunk that begins at position `first`, and the caches with it."""
        h, after = p["wte"][ids], []
        for i in range(layers):
            b = {n.removeprefix("blocks/"): w[i] for n, w in p.items() if n.startswith("blocks/")}
            x = rms(h, b["seq_norm"], rms_norm_eps)
            q, k, v = (
                (x @ b[f"seq_modeling_block/{n}"]).unflatten(-1, (num_heads, -1)).transpose(0, 1)
                for n in ("wq", "wk", "wv")
            )
            q = turn(rms(q, b["seq_modeling_block/q_norm"], rms_norm_eps), first, rope_theta)
            k = turn(rms(k, b["seq_modeling_block/k_norm"], rms_norm_eps), first, rope_theta)
            if cache[i] is not None:
                k, v = torch.cat([cache[i][0], k], 1), torch.cat([cache[i][1], v], 1)
            after.append((k, v))
            queries, keys = torch.arange(first, first + len(ids))[:, None], torch.arange(k.shape[1])
            visible = (keys <= queries) & (queries < keys + window)
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
            y = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1) @ b["seq_modeling_block/wo"]
            h = h + rms(y, b["seq_post_norm"], rms_norm_eps)
            if (s := i - layers + suffix) >= 0:
                y = mlp(rms(h, p[f"{storage}_norm"][s], rms_norm_eps), *(w[s] for w in fast))
                h = h + rms(y, p[f"{storage}_post_norm"][s], rms_norm_eps)
            y = mlp(rms(h, b["ffn_norm"], rms_norm_eps), *(b[f"feed_forward/w{j}"] for j in (1, 2, 3)))
            h = h + rms(y, b["ffn_post_norm"], rms_norm_eps)
        return rms(h, p["ln_f"], rms_norm_eps) @ p["wte"].T, after

    losses_of_chunks = []
    for first in range(0, len(tokens) - 1, chunk):
        ids = tokens[first : first + chunk + 1]
        logits, after = run(ids[:-1], first, fast)
        losses_of_chunks.append(cross_entropy(logits, ids[1:], reduction="none"))
        g = torch.autograd.grad(losses_of_chunks[-1].mean(), fast, create_graph=True)
        # Caches are functions of the weights that filled them, never of `fast` as it is now: the gradient is partial.
        length = sum(x.square().sum() for x in g).sqrt()
        share = 1.0 if inner_clip is None or length <= inner_clip else inner_clip / length
        fast, cache = [w - inner_lr * share * x for w, x in zip(fast, g)], after
    return torch.cat(losses_of_chunks)
