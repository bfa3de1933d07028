"""Self-modifying Titans, the memory of HOPE: one that makes its own keys, values, steps, retention and targets.

Behrouz, Razaviyayn, Zhong and Mirrokni 2025, "Nested Learning", arXiv 2512.24695, section 8. Memories are read and
written as tokens pass. Everything that token t needs is read before anything is written (equations 83 to 87):

    k_t = unit(M_key(x_t))         v_t = bounded(M_value(x_t))        q_t = unit(x_t W_q)
    eta_t = max_step * sigmoid(M_step(x_t) + b)                       alpha_t = sigmoid(M_retention(x_t) + c)
    o_t = M_memory(q_t)            v_hat_t = M(v_t) for each memory M that moves

and then every M that moves is written at k_t toward its own v_hat_t (equation 88, in reference.py):

    M <- (alpha_t I - eta_t k_t^T k_t) M - eta_t * gradient of |M(k_t) - v_hat_t|^2 / 2

All that is read, and every error, uses the weights at the last boundary of that memory (equations 90 to 93, in
chunk.py): `chunk` tokens for M_memory, `chunk_others` for the others. At the start of a text the weights are the
learned M_0. Training differentiates through every write, into all of them.

Ours, not the paper's (config.py has the whole list): v is kept shorter than 1; x is what a causal convolution makes of
the input, cut into heads and divided by sqrt(f), so that it is about as long as a key; y_t = (RMSNorm(o_t) *
SiLU(x_t W_g)) W_o.

Axes: b batch, h heads, t tokens, d width, f head width, m hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from nl_course.errors import check_choice
from nl_course.memories.base import Memory, State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.inner_model import unit
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import SCALAR, VECTOR, Bank, FastWeights, LinearBank, MLPBank, Rule
from nl_course.memories.hope.chunk import DecayMasks, boundaries, decay_masks, equal_pieces, write_chunk
from nl_course.memories.hope.config import VALUES, SelfModifyingConfig
from nl_course.memories.hope.reference import write_tokens
from nl_course.memories.hope.trace import explain
from nl_course.memories.trace import Trace
from nl_course.roles import BIAS, PER_HEAD, TAPS, Roles

PATHS = ("auto", "reference", "chunked")


@dataclass(frozen=True)
class FastState(State):
    """The fast weights of one bank, as it packs them (bank.py), every tensor (b, h, ...): at the last boundary; after
    the last token (empty for chunks of one token, where the two are the same); and their momentum (empty without)."""

    anchor: Weights
    running: Weights
    momentum: Weights


@dataclass(frozen=True)
class SelfModifyingState(State):
    """The fast weights of M_memory and of the others that move, at least in float32; the last conv - 1 inputs of the
    convolution (b, conv - 1, d) or None; and the number of tokens read."""

    others: FastState
    memory: FastState
    conv_state: Tensor | None
    position: int


class SelfModifying(Memory):
    """The layer. `path` "reference": token by token with autograd; "chunked" ("auto"): a chunk at once with matmuls.

    Two methods are seams, where experiments take hold of one memory: `write_inputs`, what a token asks, writes and how
    strongly, and `learn`, the write of one bank. All that the layer and its traces do goes through these two.
    Traces: see trace.py. Raises CourseError for a path that does not exist."""

    param_roles: ClassVar[Roles] = {"start.*": PER_HEAD, "*_bias": BIAS, "number.*": TAPS}
    outside_state = ("stop_gradient", "start", "start_retention")  # of the outer loop, and where its weights start

    def __init__(self, config: SelfModifyingConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        self.path = check_choice("path", path, PATHS)
        c, h, f = config, config.heads, config.head_dim
        self.conv = CausalConv(c.width, c.conv) if c.conv else None
        self.query = None if c.adaptive_query else nn.Linear(c.width, c.width, bias=False)
        start = {}
        for name in c.names:
            start |= self._first_start(name)
        self.start = nn.ParameterDict(start)
        self.step_bias = nn.Parameter(torch.full((h,), 0.1).logit())
        self.retention_bias = nn.Parameter(torch.full((h,), c.start_retention).logit()) if c.retention else None
        if not c.self_made:
            # The shared target is a vector; a memory that answers with one number needs a number, read off it.
            scalars = [name for name in c.moving if name in SCALAR]
            self.number = nn.ParameterDict({name: torch.zeros(h, f) for name in scalars})
        self.norm = nn.RMSNorm(c.width, eps=1e-6)
        self.gate = nn.Linear(c.width, c.width, bias=False)
        self.output = nn.Linear(c.width, c.width, bias=False)
        self.rule = Rule(c.erase, float(c.momentum), c.stop_gradient)
        beside = [name for name in (*VECTOR, *SCALAR) if name in c.names and name != "memory"]
        self._moving = self._bank([name for name in beside if name in c.moving])
        self._fixed = self._bank([name for name in beside if name not in c.moving])
        self._memory = self._bank(["memory"])

    def _first_start(self, name: str) -> dict[str, Tensor]:
        """A memory's start before training, each head's (in, out): first layers as a linear layer begins, second ones
        zero, or random too if the config says so. The random numbers are drawn in either case, so that the parts drawn
        after these begin alike."""
        c, f = self.config, self.config.head_dim
        width_out = f if name in VECTOR else 1
        random = c.start == "random"
        if c.kind == "linear":
            identity = torch.eye(f).expand(c.heads, f, f).clone()
            start = identity if name in VECTOR else torch.zeros(c.heads, f, 1)
            return {f"{name}_out": start + torch.randn(c.heads, f, width_out) * f**-0.5 * random}
        into = torch.randn(c.heads, f, c.hidden) * f**-0.5
        out = torch.randn(c.heads, c.hidden, width_out) * c.hidden**-0.5
        return {f"{name}_into": into, f"{name}_out": out * random}

    def _bank(self, names: Sequence[str]) -> Bank:
        c = self.config
        if c.kind == "linear":
            return LinearBank(tuple(names), c.head_dim)
        return MLPBank(tuple(names), c.head_dim, c.hidden, c.activation)

    # -- state ---------------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> SelfModifyingState:
        """The learned start of every memory that moves, for each row of the batch."""
        others, memory = (self._start_state(bank, chunk, batch_size) for bank, chunk in self.banks())
        conv_state = None if self.conv is None else self.conv.init_state(batch_size)
        return SelfModifyingState(others=others, memory=memory, conv_state=conv_state, position=0)

    def banks(self) -> tuple[tuple[Bank, int], tuple[Bank, int]]:
        """The memories beside M_memory that move, and M_memory; each bank with the length of its chunks."""
        return (self._moving, self.config.chunk_others), (self._memory, self.config.chunk)

    def start_weights(self, bank: Bank) -> Weights:
        """The learned start M_0 of a bank's memories, (1, h, ...), in the dtype of the inner loop."""
        memories = {}
        for name in bank.names:
            own = {part: self.start.get(f"{name}_{part}") for part in ("into", "out")}
            # A batch axis in front: every row of the batch begins alike, and then has weights of its own.
            memories[name] = Weights({p: w.to(self.accum_dtype)[None] for p, w in own.items() if w is not None})
        return bank.gather(memories)

    def _start_state(self, bank: Bank, chunk: int, batch_size: int) -> FastState:
        if not bank.names or (bank.names == ("memory",) and "memory" not in self.config.moving):
            return FastState(anchor=Weights(), running=Weights(), momentum=Weights())
        anchor = self.start_weights(bank).map(lambda w: w.expand(batch_size, *w.shape[1:]))
        return FastState(
            anchor=anchor,
            running=Weights(anchor) if chunk > 1 else Weights(),
            momentum=anchor.map(torch.zeros_like) if self.rule.momentum else Weights(),
        )

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """Bytes of the state, the same after any number of tokens.

        Numbers per head: 2 f m for a memory of two layers that answers with a vector, (f + 1) m for one that answers
        with a number; f f and f for linear ones. Twice that with chunks of more than one token (the anchor and the
        running weights), once more with momentum. And conv - 1 rows of d."""
        numbers = 0
        for bank, chunk in self.banks():
            state = self._start_state(bank, chunk, 1)
            numbers += sum(w.numel() for w in state.tensors().values())
        conv_numbers = self.conv.state_size if self.conv is not None else 0
        return batch_size * (numbers * self.accum_dtype.itemsize + conv_numbers * self.dtype.itemsize)

    def weights(self, state: SelfModifyingState) -> dict[str, Weights]:
        """Every memory as it stands after the last token, by name: {"into" (b, h, f, m), "out" (b, h, m, f or 1)}."""
        batch_size = state.batch_size or 1
        memories = self._fixed.spread(self.start_weights(self._fixed)) if self._fixed.names else {}
        for (bank, _), fast in zip(self.banks(), (state.others, state.memory)):
            if bank.names:
                # Chunks of one token have no running weights; a memory that does not move has no state at all.
                now = fast.running or fast.anchor or self.start_weights(bank)
                memories |= bank.spread(now)
        return {name: memories[name].map(lambda w: w.expand(batch_size, *w.shape[1:])) for name in self.config.names}

    def fast_weights(self, state: FastState) -> FastWeights:
        """What a bank's state holds, as its writes take it: in the dtype of the inner loop."""
        state = state.to(self.accum_dtype)
        # With chunks of one token the running weights are the anchor, and not kept twice.
        return FastWeights(anchor=state.anchor, running=state.running or state.anchor, momentum=state.momentum)

    @property
    def accum_dtype(self) -> torch.dtype:
        """The dtype of the inner loop: weights move by small steps, which bf16 would lose."""
        return torch.promote_types(self.dtype, torch.float32)

    # -- reading and writing -------------------------------------------------------------------------------------
    def advance(self, x: Tensor, state: SelfModifyingState, trace: Trace | None) -> tuple[Tensor, SelfModifyingState]:
        """Reads and writes for every token of x (b, t, d); returns y (b, t, d) and the state after the last token."""
        if x.shape[1] == 0:
            return x, state
        signals, others, conv_state = self.write_inputs(x, state)
        with torch.autocast(x.device.type, enabled=False):
            o, memory = self._read_and_write(signals, state)  # (b, h, t, f)
            if trace is not None:
                explain(trace, self, state, signals, o)
        o = rearrange(o, "b h t f -> b t (h f)").to(x.dtype)  # (b, t, d)
        y = self.output(self.norm(o) * silu(self.gate(x)))
        after = SelfModifyingState(
            others=others, memory=memory, conv_state=conv_state, position=state.position + x.shape[1]
        )
        return y, after

    def write_inputs(self, x: Tensor, state: SelfModifyingState) -> tuple[dict[str, Tensor], FastState, Tensor | None]:
        """What x (b, t, d) comes to for M_memory: `query`, `key`, `value` (b, h, t, f), `step` and `log_retention`
        (b, h, t). The memories beside it say so, and are written on the way. Also returns their state after the last
        token, and the convolution's."""
        u, conv_state = (x, None) if self.conv is None else self.conv(x, state.conv_state)
        q = None if self.query is None else self._heads(self.query(u))  # (b, h, t, f)
        # A step of the inner loop is too small for bf16: autocast ends here.
        with torch.autocast(x.device.type, enabled=False):
            z = self._heads(u) * self.config.head_dim**-0.5  # (b, h, t, f)
            signals, others = self._read_and_write_others(z, state)
            if q is not None:
                signals["query"] = unit(q)
        return signals, others, conv_state

    def _heads(self, x: Tensor) -> Tensor:
        """(b, t, d) -> (b, h, t, f), in the dtype of the inner loop."""
        return rearrange(x, "b t (h f) -> b h t f", h=self.config.heads).to(self.accum_dtype)

    def _read_and_write_others(self, z: Tensor, state: SelfModifyingState) -> tuple[dict[str, Tensor], FastState]:
        """The memories beside M_memory, read at z (b, h, t, f) and written: every token's signals, and their state.

        Each chunk is read with the weights that the chunk before it left, so that chunks follow each other."""
        (bank, chunk), _ = self.banks()
        fixed = self._fixed.read(self.start_weights(self._fixed), z) if self._fixed.names else {}
        if not bank.names:
            return self._as_signals(fixed), state.others
        fast = self.fast_weights(state.others)
        cuts = boundaries(state.position, z.shape[2], chunk)
        sizes = [stop - start for start, stop in pairwise(cuts)]
        # Taken apart once: a slice per chunk would make the backward pass quadratic in their number.
        fixed_pieces = {name: y.split(sizes, dim=2) for name, y in fixed.items()}
        pieces = []
        for i, z_piece in enumerate(z.split(sizes, dim=2)):
            # Eq. 83 to 87 in chunks (eq. 90): all of a chunk's tokens are read with the weights at its boundary.
            outputs = bank.read(fast.anchor, z_piece)  # (b, h, c, f or 1) by name
            for name, own_pieces in fixed_pieces.items():
                outputs[name] = own_pieces[i]
            signals = self._as_signals(outputs)
            pieces.append(signals)
            fast, _ = self.learn(bank, fast, signals, fresh=(state.position + cuts[i]) % chunk == 0)
            if (state.position + cuts[i + 1]) % chunk == 0:
                fast = fast._replace(anchor=fast.running)
        return _joined(pieces), _as_state(fast, chunk)

    def _as_signals(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What memories answered, (b, h, t, f or 1) by name, as it is used: vectors (b, h, t, f), gates (b, h, t)."""
        signals = {name: unit(outputs[name]) for name in ("key", "query") if name in outputs}
        value = outputs["value"]
        # Ours: a memory whose target is its own answer to v would run away if v could grow (config.py).
        signals["value"] = VALUES[self.config.values](value)
        step = outputs["step"].squeeze(-1) + self.step_bias.to(value.dtype)[:, None]  # (b, h, t), before the sigmoid
        signals["step"] = self.config.max_step * step.sigmoid()
        if self.config.retention:
            retention = outputs["retention"].squeeze(-1) + self.retention_bias.to(value.dtype)[:, None]
            # A logarithm, so that a chunk's products of retentions are sums: they do not underflow.
            signals["log_retention"] = logsigmoid(retention)
        else:
            signals["log_retention"] = torch.zeros_like(step)
        return signals

    def _read_and_write(self, signals: dict[str, Tensor], state: SelfModifyingState) -> tuple[Tensor, FastState]:
        """M_memory, read at every token's query and written: its answers (b, h, t, f), and its state."""
        _, (bank, chunk) = self.banks()
        q = signals["query"]
        if not state.memory.anchor:  # it does not move
            return bank.read(self.start_weights(bank), q)["memory"], state.memory
        fast = self.fast_weights(state.memory)
        running = self.config.read == "running"
        reads = []
        for start, stop, size in equal_pieces(state.position, q.shape[2], chunk):
            # The masks do not depend on the weights: those of all whole chunks are made together.
            stacked = {name: u[:, :, start:stop].unflatten(2, (-1, size)) for name, u in signals.items()}
            count = stacked["key"].shape[2]  # (b, h, count, c, ..)
            masks = [None] * count
            if self.path != "reference":
                masks = self.masks(stacked["key"], stacked["step"], stacked["log_retention"]).pieces()
            for i, piece in enumerate(_taken_apart(stacked)):
                position = state.position + start + i * size
                anchor = fast.anchor
                fast, o = self.learn(bank, fast, piece, position % chunk == 0, masks[i], running)
                if o is None:  # read before write: the weights at the boundary, as for keys and values
                    o = bank.read(anchor, piece["query"])["memory"]
                reads.append(o)  # (b, h, c, f)
                if (position + size) % chunk == 0:
                    fast = fast._replace(anchor=fast.running)
        return torch.cat(reads, dim=2), _as_state(fast, chunk)

    def learn(
        self,
        bank: Bank,
        fast: FastWeights,
        signals: dict[str, Tensor],
        fresh: bool,
        masks: DecayMasks | None = None,
        running: bool = False,
    ) -> tuple[FastWeights, Tensor | None]:
        """Writes one chunk, or a piece of one, into a bank: its fast weights after, and what each token reads right
        after its own write (b, h, t, f) if `running`, else None. `fresh`: the piece opens its chunk. `masks`, if they
        are known already, are those of these keys, steps and retentions."""
        k, v = signals["key"], signals["value"]
        eta, log_alpha = signals["step"], signals["log_retention"]
        targets = self.shared_targets(bank, v)
        q = signals["query"] if running else None
        if self.path == "reference":
            return write_tokens(bank, self.rule, fast, k, v, eta, log_alpha.exp(), targets, q)
        masks = masks or self.masks(k, eta, log_alpha)
        return write_chunk(bank, self.rule, fast, k, v, masks, targets, fresh, q)

    def masks(self, k: Tensor, step: Tensor, log_retention: Tensor) -> DecayMasks:
        """The masks of one piece or of many: k (.., c, f), step and log_retention (.., c)."""
        if self.rule.stop in ("first-order", "write"):
            k = k.detach()
        return decay_masks(k, step, log_retention, self.rule.erase != "off", self.rule.momentum)

    def shared_targets(self, bank: Bank, v: Tensor) -> Weights | None:
        """What all memories of a bank are written toward for values v (b, h, t, f), packed; None where each memory
        makes its own target."""
        if self.config.self_made:
            return None
        numbers = [torch.einsum("bhtf,hf->bht", v, self.number[name].to(v.dtype)) for name in bank.scalars]
        return bank.targets(v, numbers)


def _joined(pieces: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Signals of pieces in a row -> signals of all their tokens, (b, h, t, ..) by name."""
    joined = {}
    for name in pieces[0]:
        joined[name] = torch.cat([piece[name] for piece in pieces], dim=2)
    return joined


def _taken_apart(stacked: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Signals (b, h, pieces, c, ..) by name -> those of each piece, (b, h, c, ..)."""
    apart = [u.unbind(2) for u in stacked.values()]
    return [dict(zip(stacked, piece)) for piece in zip(*apart, strict=True)]


def _as_state(fast: FastWeights, chunk: int) -> FastState:
    """With chunks of one token every token is at a boundary: the running weights are the anchor, and not kept twice."""
    running = fast.running if chunk > 1 else Weights()
    return FastState(anchor=fast.anchor, running=running, momentum=fast.momentum)
