"""Self-modifying Titans, the memory of HOPE: one that makes its own keys, values, steps, retention and targets.

Behrouz, Razaviyayn, Zhong and Mirrokni 2025, "Nested Learning", arXiv 2512.24695, section 8 (equations 76 to 93). Five
small memories, key, value, step, retention and memory, are read and written as tokens pass:

    k_t = unit(M_key(x_t))     v_t = M_value(x_t)     q_t = unit(x_t W_q)     v^_t = M(v_t) for each memory M
    eta_t = max_step sigmoid(M_step(x_t) + b)         alpha_t = sigmoid(M_retention(x_t) + c)
    M <- M (alpha_t I - eta_t k_t^T k_t) - eta_t grad |M(k_t) - v^_t|^2 / 2
    y_t = (RMSNorm(M_memory(q_t)) * SiLU(x_t W_g)) W_O

with x a causal convolution of the input, cut into heads and divided by sqrt(f), so that it is about as long as a key.
All that reads, and every error, uses the weights at the last boundary of that memory: `chunk` tokens for M_memory,
`chunk_others` for the others. At the start of a text the weights are the learned M_0: training differentiates through
every write, into all of them.

`rung` is the ladder of section 8.1: "plain" (only M_memory moves, towards the shared v), "adaptive" (all move, towards
v) and "self-modifying" (all move, each towards its own v^). `adaptive` names the memories that move, for rungs between.

The paper leaves open what kind of network, which layer is erased, ranges, starts, heads, gate: see hope_config.py.
Axes: b batch, h heads, t tokens, f head width, m hidden width.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from nl_course.errors import CourseError, check_choice
from nl_course.memories.ablations.gain import GainBank
from nl_course.memories.base import Memory, State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.inner_model import unit
from nl_course.memories.hope import chunk as hope_chunk
from nl_course.memories.hope import reference as hope_reference
from nl_course.memories.hope.bank import NARROW, WIDE, Bank, Fast, Rule
from nl_course.memories.hope.config import VALUES, SelfModifyingConfig
from nl_course.memories.hope.trace import explain
from nl_course.memories.trace import Trace

PATHS = ("auto", "reference", "chunked", "gain")


@dataclass(frozen=True)
class FastState(State):
    """The fast weights of one bank (hope_core.py), every tensor (b, h, ...): at the last boundary, after the last token
    (empty for chunks of one token, where they are the same), and their momentum (empty without)."""

    anchor: dict
    running: dict
    momentum: dict


@dataclass(frozen=True)
class SelfModifyingState(State):
    """The fast weights of the memories that move, M_memory's and the others', at least in float32; the last conv - 1
    inputs (b, conv - 1, d) or None; and the number of tokens read."""

    others: State
    memory: State
    tail: Tensor | None
    position: int


class SelfModifying(Memory):
    """The layer. `path` "reference": token by token with autograd; "chunked" ("auto"): a chunk at once with matmuls;
    "gain": linear memories by the one gain they share, which is then all that the state holds.

    Two methods are seams, where experiments take hold of one memory: `write_inputs`, what a token asks, writes and how
    strongly, and `learn`, the write of one bank. All that the layer and its traces do goes through these two.
    Traces: see hope_trace.py."""

    def __init__(self, config: SelfModifyingConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config, self.path = config, check_choice("path", path, PATHS)
        c, h, f = config, config.heads, config.head_dim
        self.conv = CausalConv(c.width, c.conv) if c.conv else None
        self.query = None if c.adaptive_query else nn.Linear(c.width, c.width, bias=False)
        self.start = nn.ParameterDict({n: p for name in c.names for n, p in self._begin(name).items()})
        self.step_bias = nn.Parameter(torch.full((h,), 0.1).logit())
        self.retention_bias = nn.Parameter(torch.full((h,), c.start_retention).logit()) if c.retention else None
        if not c.self_made:  # the shared value as the one number that a narrow memory is to answer
            narrow = [name for name in c.moving if name in NARROW]
            self.number = nn.ParameterDict({name: torch.zeros(h, f) for name in narrow})
        self.norm = nn.RMSNorm(c.width, eps=1e-6)
        self.gate = nn.Linear(c.width, c.width, bias=False)
        self.output = nn.Linear(c.width, c.width, bias=False)
        self.rule = Rule(c.erase, float(c.momentum), c.stop_gradient)
        moving = [name for name in (*WIDE, *NARROW) if name in c.moving and name != "memory"]
        fixed = [name for name in (*WIDE, *NARROW) if name in c.names and name not in (*c.moving, "memory")]
        sizes = f, c.hidden if c.kind == "mlp" else 0, c.activation
        self._moving, self._fixed, self._memory = (Bank(tuple(n), *sizes) for n in (moving, fixed, ["memory"]))
        if path == "gain" and not (c.kind == "linear" and c.self_made and set(c.moving) == set(c.names)):
            raise CourseError('path "gain" is for kind "linear" with targets "self", all memories moving.')

    def _begin(self, name: str) -> dict[str, Tensor]:
        """A memory's learned start, each head's (in, out): first layers as a linear layer begins, second ones zero."""
        c, f, out = self.config, self.config.head_dim, self.config.head_dim if name in WIDE else 1
        if c.kind == "linear":
            start = torch.eye(f).expand(c.heads, f, f).clone() if name in WIDE else torch.zeros(c.heads, f, 1)
            return {f"{name}_out": start + torch.randn(c.heads, f, out) * f**-0.5 * (c.start == "random")}
        into, after = torch.randn(c.heads, f, c.hidden) * f**-0.5, torch.randn(c.heads, c.hidden, out) * c.hidden**-0.5
        return {f"{name}_into": into, f"{name}_out": after * (c.start == "random")}

    # -- state ---------------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> SelfModifyingState:
        others, memory = (self._fresh(bank, size, batch_size) for bank, size in self._banks())
        tail = None if self.conv is None else self.conv.init_tail(batch_size)
        return SelfModifyingState(others, memory, tail, 0)

    def _banks(self) -> list[tuple[Bank, int]]:
        """The others that move and M_memory, each with its chunk."""
        c = self.config
        return [(self._live(self._moving), c.chunk_others), (self._live(self._memory), c.chunk)]

    def _live(self, bank: Bank) -> Bank:
        if self.path != "gain":
            return bank
        return GainBank(bank.names, bank.width, 0, start=self._start(bank)["out"])

    def _fresh(self, bank: Bank, chunk: int, batch_size: int) -> FastState:
        if not bank.names or (bank.names == ("memory",) and "memory" not in self.config.moving):
            return FastState({}, {}, {})
        anchor = {name: w.expand(batch_size, *w.shape[1:]) for name, w in self._begun(bank).items()}
        momentum = {name: torch.zeros_like(w) for name, w in anchor.items()} if self.rule.momentum else {}
        return FastState(anchor, dict(anchor) if chunk > 1 else {}, momentum)

    def _begun(self, bank: Bank) -> dict[str, Tensor]:
        """What a bank's state begins with, (1, h, ...)."""
        return bank.begin() if isinstance(bank, GainBank) else self._start(bank)

    def _start(self, bank: Bank) -> dict[str, Tensor]:
        """The learned start of a bank's memories, (1, h, ...), in the dtype of the inner loop."""
        parts = ("into", "out") if bank.hidden else ("out",)
        return bank.gather(
            {name: {p: self.start[f"{name}_{p}"].to(self._wide)[None] for p in parts} for name in bank.names}
        )

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """s per number: a wide memory has 2 f m a head, a step or retention memory (f + 1) m; linear ones f f and f; a
        gain f f for all memories of a clock. Twice that with chunks of more than one token (the anchor and the running
        weights), once more with momentum; and conv - 1 columns of d. Whatever the number of tokens."""
        numbers = 0
        for bank, chunk in self._banks():
            state = self._fresh(bank, chunk, 1)
            numbers += sum(w.numel() for part in state.parts().values() for w in part.values())
        tail = self.conv.tail_size if self.conv is not None else 0
        return batch_size * (numbers * self._wide.itemsize + tail * self.dtype.itemsize)

    def weights(self, state: SelfModifyingState) -> dict[str, dict[str, Tensor]]:
        """Every memory as it stands after the last token, by name: {"into" (b, h, f, m), "out" (b, h, m, f or 1)}."""
        batch = state.batch_size or 1
        found = self._fixed.spread(self._start(self._fixed)) if self._fixed.names else {}
        for (bank, _), fast in zip(self._banks(), (state.others, state.memory)):
            if bank.names:
                now = fast.running or fast.anchor
                found |= bank.spread(now) if now else bank.spread(self._start(bank))
        return {n: {p: w.expand(batch, *w.shape[1:]) for p, w in found[n].items()} for n in self.config.names}

    @property
    def _wide(self) -> torch.dtype:
        """The dtype of the inner loop: weights move by small steps, which bf16 would lose."""
        return torch.promote_types(self.dtype, torch.float32)

    # -- reading and writing -------------------------------------------------------------------------------------
    def advance(self, x: Tensor, state: SelfModifyingState, trace: Trace | None) -> tuple[Tensor, SelfModifyingState]:
        if x.shape[1] == 0:
            return x, state
        signals, others, tail = self.write_inputs(x, state)
        with torch.autocast(x.device.type, enabled=False):
            o, memory = self._remember(signals, state)
            if trace is not None:
                explain(trace, self, state, signals, o)
        o = rearrange(o, "b h t f -> b t (h f)").to(x.dtype)
        y = self.output(self.norm(o) * silu(self.gate(x)))
        return y, SelfModifyingState(others, memory, tail, state.position + x.shape[1])

    def write_inputs(self, x: Tensor, state: SelfModifyingState) -> tuple[dict[str, Tensor], FastState, Tensor | None]:
        """What x (b, t, d) comes to for M_memory: `query`, `key`, `value` (b, h, t, f), `step` and `log_retention`
        (b, h, t). The memories beside it say so, and are written on the way: their state after, and the new tail."""
        u, tail = (x, None) if self.conv is None else self.conv(x, state.tail)
        q = None if self.query is None else self._heads(self.query(u))
        with torch.autocast(x.device.type, enabled=False):
            z = self._heads(u) * self.config.head_dim**-0.5
            signals, others = self._signals(z, state)
            if q is not None:
                signals["query"] = unit(q)
        return signals, others, tail

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h f) -> b h t f", h=self.config.heads).to(self._wide)

    def _signals(self, z: Tensor, state: SelfModifyingState) -> tuple[dict[str, Tensor], FastState]:
        """Every token's key, value, step, log retention (and query), from the memories beside M_memory."""
        fixed = self._fixed.read(self._start(self._fixed), z) if self._fixed.names else {}
        (bank, chunk), _ = self._banks()
        if not bank.names:
            return self._gates(fixed), state.others
        fast, tokens, found = self._fast(state.others), z.shape[2], []
        cuts = hope_chunk.cuts(state.position, tokens, chunk)
        sizes = [stop - start for start, stop in pairwise(cuts)]
        fixed = [dict(zip(fixed, parts)) for parts in zip(*(y.split(sizes, dim=2) for y in fixed.values()))]
        for i, piece in enumerate(z.split(sizes, dim=2)):
            signals = self._gates(bank.read(fast.anchor, piece) | (fixed[i] if fixed else {}))
            found.append(signals)
            fast, _ = self.learn(bank, fast, signals, (state.position + cuts[i]) % chunk == 0)
            if (state.position + cuts[i + 1]) % chunk == 0:
                fast = fast._replace(anchor=fast.running)
        return {name: torch.cat([one[name] for one in found], dim=2) for name in found[0]}, _kept(fast, chunk)

    def _gates(self, answers: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the memories beside M_memory say, (b, h, t, f or 1), as it is used: (b, h, t, f), gates (b, h, t)."""
        signals = {name: unit(answers[name]) for name in ("key", "query") if name in answers}
        value = answers["value"]
        signals["value"] = VALUES[self.config.values](value)
        bias = self.step_bias.to(value.dtype)
        step = answers["step"].squeeze(-1) + bias[:, None]
        signals["step"] = self.config.max_step * step.sigmoid()
        if self.config.retention:
            kept = answers["retention"].squeeze(-1) + self.retention_bias.to(value.dtype)[:, None]
            signals["log_retention"] = logsigmoid(kept)
        else:
            signals["log_retention"] = torch.zeros_like(step)
        return signals

    def learn(
        self,
        bank: Bank,
        fast: Fast,
        signals: dict[str, Tensor],
        fresh: bool,
        masks: hope_chunk.Masks | None = None,
        running: bool = False,
    ) -> tuple[Fast, Tensor | None]:
        """Writes one chunk, or a piece of one, into a bank: its fast weights after, and what each token reads right
        after its own write (b, h, t, f) if `running`, else None. `fresh`: the piece opens its chunk. `masks`, if they
        are known already, are those of these keys, steps and retentions."""
        k, v = signals["key"], signals["value"]
        gates = signals["step"], signals["log_retention"]
        shared, q = partial(self.shared_targets, bank), signals["query"] if running else None
        if self.path == "reference":
            return hope_reference.learn(bank, self.rule, fast, k, v, *gates, shared(v), q)
        masks = masks or self._masks(k, *gates)
        return hope_chunk.learn(bank, self.rule, fast, k, v, masks, shared(v), fresh, q)

    def _masks(self, k: Tensor, step: Tensor, log_retention: Tensor) -> hope_chunk.Masks:
        if self.rule.stop in ("first-order", "write"):
            k = k.detach()
        return hope_chunk.masks(k, step, log_retention, self.rule.erase != "off", self.rule.momentum)

    def shared_targets(self, bank: Bank, v: Tensor) -> dict[str, Tensor] | None:
        if self.config.self_made:
            return None
        return bank.targets(v, [torch.einsum("bhtf,hf->bht", v, self.number[n].to(v.dtype)) for n in bank.narrow])

    def _remember(self, signals: dict[str, Tensor], state: SelfModifyingState) -> tuple[Tensor, FastState]:
        """M_memory written and read: (b, h, t, f)."""
        _, (bank, chunk) = self._banks()
        q, tokens = signals["query"], signals["query"].shape[2]
        if not state.memory.anchor:
            return bank.read(self._start(bank), q)["memory"], state.memory
        fast, answers = self._fast(state.memory), []
        running = self.config.read == "running"
        for start, stop, size in hope_chunk.runs(state.position, tokens, chunk):
            # All whole chunks together as far as they can be: what does not depend on the weights.
            run = {name: u[:, :, start:stop].unflatten(2, (-1, size)) for name, u in signals.items()}
            masks = [None] * run["key"].shape[2]
            if self.path != "reference":
                masks = self._masks(run["key"], run["step"], run["log_retention"]).pieces()
            chunks = zip(*(u.unbind(2) for u in run.values()))
            for i, parts in enumerate(chunks):
                piece, place = dict(zip(run, parts)), state.position + start + i * size
                before = fast.anchor
                fast, o = self.learn(bank, fast, piece, place % chunk == 0, masks[i], running)
                answers.append(bank.read(before, piece["query"])["memory"] if o is None else o)
                if (place + size) % chunk == 0:
                    fast = fast._replace(anchor=fast.running)
        return torch.cat(answers, dim=2), _kept(fast, chunk)

    def _fast(self, state: FastState) -> Fast:
        anchor, running, momentum = ({n: w.to(self._wide) for n, w in p.items()} for p in state.parts().values())
        return Fast(anchor, running or anchor, momentum)


def _kept(fast: Fast, chunk: int) -> FastState:
    return FastState(fast.anchor, fast.running if chunk > 1 else {}, fast.momentum)
