"""MAC, MAG and MAL from the equations of their paper, a token at a time: what the whole layers are compared with.

Behrouz, Zhong and Mirrokni 2024, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663: equations 8 to 15 for
the memory, 21 to 25 for MAC, 26 to 28 for MAG, 29 to 31 for MAL, section 4.4 for what stands around them. Where the
paper leaves something open, this is the course's choice as the layers' docstrings give it.

Nothing here comes from nl_course: only the weights, by the names that the layers give them (see by_hand.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.memories.by_hand import (
    ACTIVATIONS,
    Weights,
    convolved,
    heads_of,
    layer_norm,
    rms_norm,
    silu,
    softmax_read,
    turned,
    unit,
)


@dataclass(frozen=True)
class Options:
    """What can be chosen, in the words of the layers' configs.

    Section 4.4 wants a residual path "in all blocks", and the equations print none. `attention_residual` is the one
    around attention; the one around MAL's memory, y = x~ + M(x~), is always there. `gate` is the form of (x) in MAC and
    MAG: "linear" has the layer that section 4.4 speaks of, "vectors" only the two scales of section 4.2."""

    heads: int
    layers: int = 2
    expansion: int = 4
    activation: str = "silu"
    chunk: int = 16
    conv: int = 4
    persistent: int = 4
    momentum: bool = True
    retention: bool = True
    max_step: float | None = None
    norm: bool = False
    residual: bool = False
    bias: bool = False
    stop_gradient: str = "none"
    segment: int = 64
    window: int = 64
    rope_theta: float | None = 10_000.0
    attention_residual: bool = True
    gate: str = "linear"


# -- the neural memory -------------------------------------------------------------------------------------------------
class Memory:
    """One text's memory: M and S of every head, the anchor of the open chunk, and what the convolutions remember."""

    def __init__(self, w: Weights, o: Options):
        self.w = w
        self.o = o
        self.M = []
        self.S = []
        for h in range(o.heads):
            start = {}
            for i in range(1, o.layers + 1):
                start[f"W{i}"] = w[f"neural.start.W{i}"][h]
                if o.bias:
                    start[f"b{i}"] = w[f"neural.start.b{i}"][h]
            self.M.append(start)
            self.S.append({name: torch.zeros_like(weight) for name, weight in start.items()})
        self.anchor = list(self.M)
        self.written = 0
        self.before = {name: self.nothing_before() for name in "qkv"}

    def nothing_before(self) -> list[Tensor]:
        """What stands in a convolution before the first row: zeros."""
        zeros = torch.zeros_like(self.w["neural.query.weight"][0])
        return [zeros] * max(0, self.o.conv - 1)

    def projected(self, name: str, row: Tensor, before: list[Tensor]) -> list[Tensor]:
        """Each head's q, k or v of a row (section 4.4): projection, short convolution, SiLU; length 1 for q and k.

        `before` are the last conv - 1 rows of this projection, oldest first. It is moved on in place."""
        long_name = {"q": "query", "k": "key", "v": "value"}[name]
        u = row @ self.w[f"neural.{long_name}.weight"].T  # eq. 11
        if self.o.conv:
            taps = self.w[f"neural.conv_{long_name}.weight"]  # (d, conv)
            u = convolved(u, before, taps, self.w[f"neural.conv_{long_name}.bias"])
        u = silu(u)
        heads = heads_of(u, self.o.heads)
        if name == "v":
            return heads
        return [unit(own) for own in heads]

    def network(self, M: Weights, h: int, z: Tensor) -> Tensor:
        """f(z; M) of head h: layers with an activation between them, and the parts that the options ask for."""
        a = z
        for i in range(1, self.o.layers + 1):
            a = a @ M[f"W{i}"]
            if self.o.bias:
                a = a + M[f"b{i}"][0]
            if i < self.o.layers:
                a = ACTIVATIONS[self.o.activation](a)
        if self.o.norm:
            a = layer_norm(a, self.w["neural.gain"][h, 0], self.w["neural.shift"][h, 0])
        return z + a if self.o.residual else a

    def gate(self, name: str, row: Tensor, h: int) -> Tensor:
        """sigmoid(x . w + b) of head h."""
        return torch.sigmoid(row @ self.w[f"neural.{name}.weight"][h] + self.w[f"neural.{name}.bias"][h])

    def surprise(self, h: int, k: Tensor, v: Tensor) -> Weights:
        """The gradient of |f(k; anchor) - v|^2 / 2 (eq. 12). k and v are constants of it, also where they were made of
        what this memory said: hence the copies."""
        at = {name: weight.clone() for name, weight in self.anchor[h].items()}
        error = self.network(at, h, k) - v
        loss = (error * error).sum() / 2
        gradients = torch.autograd.grad(loss, list(at.values()), create_graph=True)
        if self.o.stop_gradient == "first-order":
            gradients = [g.detach() for g in gradients]
        return dict(zip(at, gradients))

    def write_and_read(self, row: Tensor) -> Tensor:
        """Writes a row, and reads with its query what was just written: M_t(q_t), all heads side by side (d,)."""
        o = self.o
        q = self.projected("q", row, self.before["q"])
        k = self.projected("k", row, self.before["k"])
        v = self.projected("v", row, self.before["v"])
        largest = min(1.0, 2 / o.chunk) if o.max_step is None else o.max_step
        if self.written % o.chunk == 0:
            self.anchor = list(self.M)  # section 3.2: a chunk's gradients are taken where it began
        read = []
        for h in range(o.heads):
            theta = largest * self.gate("step", row, h)
            eta = self.gate("past", row, h) if o.momentum else 0.0
            alpha = self.gate("forget", row, h) if o.retention else 0.0
            u = self.surprise(h, k[h], v[h])
            S = {}
            M = {}
            for name in u:
                S[name] = eta * self.S[h][name] - theta * u[name]  # eq. 10, 14
                M[name] = (1 - alpha) * self.M[h][name] + S[name]  # eq. 13
            self.S[h] = S
            self.M[h] = M
            read.append(self.network(M, h, q[h]))  # eq. 15
        self.written += 1
        return torch.cat(read)

    def state(self) -> Weights:
        """What must be carried to go on: heads first, (h, in, out)."""
        tensors = {}
        # Between two chunks the anchor to come is the memory as it stands.
        anchor = self.M if self.written % self.o.chunk == 0 else self.anchor
        for name in self.M[0]:
            tensors[f"neural.memory.{name}"] = torch.stack([M[name] for M in self.M])
            if self.o.momentum:
                tensors[f"neural.momentum.{name}"] = torch.stack([S[name] for S in self.S])
            if self.o.chunk > 1:
                tensors[f"neural.anchor.{name}"] = torch.stack([M[name] for M in anchor])
        if self.o.conv:
            for i, name in enumerate("qkv"):
                tensors[f"conv_states.{i}"] = rows(self.before[name], self.w)
        return tensors


def rows(some: list[Tensor], w: Weights) -> Tensor:
    """(n, d), also for n = 0."""
    if not some:
        return w["neural.query.weight"].new_zeros(0, w["neural.query.weight"].shape[0])
    return torch.stack(some)


# -- attention ---------------------------------------------------------------------------------------------------------
class Seen:
    """One token as later ones see it: each head's turned key, and its value."""

    def __init__(self, w: Weights, o: Options, row: Tensor, position: int | None):
        """`position` None: a persistent token, which has none and is not turned."""
        theta = None if position is None else o.rope_theta
        key = heads_of(row @ w["attention.key.weight"].T, o.heads)
        self.key = [turned(own, position or 0, theta) for own in key]
        self.value = heads_of(row @ w["attention.value.weight"].T, o.heads)


def attend(w: Weights, o: Options, row: Tensor, position: int, prefix: list[Seen], seen: list[Seen]) -> Tensor:
    """What a token reads, (d,): one softmax over the prefix and all that it sees (eq. 2). Scores with the prefix use
    the query as it is, those with tokens the query turned by its position."""
    query = heads_of(row @ w["attention.query.weight"].T, o.heads)
    read = []
    for h in range(o.heads):
        scale = len(query[h]) ** -0.5
        own = turned(query[h], position, o.rope_theta)
        scores = [scale * (query[h] * token.key[h]).sum() for token in prefix]
        scores += [scale * (own * token.key[h]).sum() for token in seen]
        read.append(softmax_read(scores, [token.value[h] for token in (*prefix, *seen)]))
    return torch.cat(read) @ w["attention.output.weight"].T


def merged(w: Weights, o: Options, y: Tensor, m: Tensor) -> Tensor:
    """y (x) m of equations 25 and 28: the course's choices of the gate."""
    y = rms_norm(y, w["merge.y_norm.weight"])
    m = rms_norm(m, w["merge.m_norm.weight"])
    if o.gate == "linear":
        gated = m * silu(y @ w["merge.gate.weight"].T)
    else:
        gated = y * silu(m)
    return gated @ w["merge.output.weight"].T


def columns(tokens: list[Seen], part: str, w: Weights, o: Options) -> Tensor:
    """Keys or values of tokens, (h, n, f), also for n = 0."""
    per_head = []
    for h in range(o.heads):
        own = [getattr(token, part)[h] for token in tokens]
        f = w["attention.query.weight"].shape[0] // o.heads
        per_head.append(torch.stack(own) if own else w["attention.query.weight"].new_zeros(0, f))
    return torch.stack(per_head)


def persistent_rows(w: Weights, o: Options) -> list[Tensor]:
    return list(w["persistent"]) if o.persistent else []


# -- the layers --------------------------------------------------------------------------------------------------------
def mac(w: Weights, o: Options, x: Tensor) -> tuple[Tensor, Weights]:
    """Memory as a context: x (t, d) of one text -> o (t, d), and the state by name."""
    memory = Memory(w, o)
    prefix = [Seen(w, o, p, None) for p in persistent_rows(w, o)]
    at_segment_start = list(memory.M)
    before = memory.nothing_before()  # of the retrieving query: it follows x, while the writes follow y
    recalled: list[Seen] = []
    own: list[Seen] = []
    outputs = []
    for t, s in enumerate(x):
        position = t % o.segment  # attention knows this segment only
        q = memory.projected("q", s, before)
        read = [memory.network(at_segment_start[h], h, q[h]) for h in range(o.heads)]
        h_i = rms_norm(torch.cat(read), w["recall_norm.weight"])  # eq. 21
        recalled.append(Seen(w, o, h_i, position))
        own.append(Seen(w, o, s, position))
        y = attend(w, o, s, position, prefix, [*recalled, *own])  # eq. 22, 23: P, h_1 .. h_i, s_1 .. s_i
        y = s + y if o.attention_residual else y
        m = memory.write_and_read(y)  # eq. 24, and the read of eq. 25 right after
        outputs.append(merged(w, o, y, m))  # eq. 25
        if position == o.segment - 1:
            at_segment_start = list(memory.M)
            recalled = []
            own = []
    state = memory.state()
    for name in memory.M[0]:
        state[f"segment_memory.{name}"] = torch.stack([M[name] for M in at_segment_start])
    if o.conv:
        state["query_conv_state.0"] = rows(before, w)
    parts = [columns(recalled, "key", w, o), columns(recalled, "value", w, o)]
    parts += [columns(own, "key", w, o), columns(own, "value", w, o)]
    state["segment_cache.columns"] = torch.cat(parts, dim=-1)
    return torch.stack(outputs), state


def mag(w: Weights, o: Options, x: Tensor) -> tuple[Tensor, Weights]:
    """Memory as a gate: x (t, d) of one text -> o (t, d), and the state by name."""
    memory = Memory(w, o)
    prefix = []
    for p in persistent_rows(w, o):
        prefix.append(Seen(w, o, p, None))
        memory.write_and_read(p)  # eq. 26: P stands before the text, for the memory too
    own: list[Seen] = []
    outputs = []
    for t, row in enumerate(x):
        own.append(Seen(w, o, row, t))
        own = own[-o.window :]
        y = attend(w, o, row, t, prefix, own)  # eq. 27
        y = row + y if o.attention_residual else y
        m = memory.write_and_read(row)
        outputs.append(merged(w, o, y, m))  # eq. 28
    state = memory.state()
    state["key.columns"] = columns(own, "key", w, o)
    state["value.columns"] = columns(own, "value", w, o)
    return torch.stack(outputs), state


def mal(w: Weights, o: Options, x: Tensor) -> tuple[Tensor, Weights]:
    """Memory as a layer: x (t, d) of one text -> o (t, d), and the state by name."""
    memory = Memory(w, o)

    def remembered(row: Tensor) -> tuple[Tensor, Tensor]:
        """The memory with its norm, gate and projection, for a row of x~; and what attention is given for it."""
        m = memory.write_and_read(row)
        m = (rms_norm(m, w["read_norm.weight"]) * silu(row @ w["gate.weight"].T)) @ w["output.weight"].T
        return m, rms_norm(row + m, w["between_norm.weight"])  # eq. 30

    prefix = [Seen(w, o, remembered(p)[1], None) for p in persistent_rows(w, o)]  # eq. 29
    own: list[Seen] = []
    outputs = []
    for t, row in enumerate(x):
        m, y = remembered(row)
        own.append(Seen(w, o, y, t))
        own = own[-o.window :]
        read = attend(w, o, y, t, prefix, own)  # eq. 31
        outputs.append(m + read if o.attention_residual else read)
    state = memory.state()
    state["key.columns"] = columns(own, "key", w, o)
    state["value.columns"] = columns(own, "value", w, o)
    state["prefix_key"] = columns(prefix, "key", w, o)
    state["prefix_value"] = columns(prefix, "value", w, o)
    return torch.stack(outputs), state


LAYERS = {"mac": mac, "mag": mag, "mal": mal}
