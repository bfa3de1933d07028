"""What each ablation comes to in each memory: other inputs for its inner loop, or another loop in the same place.

Two public methods of a memory are its seams. An adapter stands in for both on one memory object; the methods of its
class stay what they are, and the adapter calls them:

    write_inputs    turns tokens into q, k, v, gates      sign, read_with, learning_rate_per_token: other inputs
    learn           the inner loop: reads and next state  momentum, last_layer_only, inner_steps, frozen

MAC, MAG and MAL have others, for `without`: persistent_rows, attend, remember, and the merging of MAC and MAG.

`last_layer_only` needs no loop of its own. Below the last layer nothing moves, so the features phi of keys and queries
are fixed, and f(x) = x + LN(phi(x) W + b) is a network of one layer over phi. The residual path goes around it: the
one-layer network is to answer v - k at phi(k), and q is added to what it says at phi(q).

Axes: b batch, h heads, t tokens, f head width, m hidden width.
"""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.errors import CourseError, check_choice
from nl_course.memories.ablations.ablation import Ablation
from nl_course.memories.ablations.gain import SharedGain
from nl_course.memories.ablations.hope_inner_steps import learn_hope
from nl_course.memories.ablations.inner_muon import InnerMuonMemory
from nl_course.memories.ablations.inner_steps import learn_titans, learn_ttt
from nl_course.memories.ablations.pooled import PooledMemory
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.common.inner_model import InnerModel
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import Bank, FastWeights, MLPBank, Network, RankOneGrad
from nl_course.memories.hope.chunk import DecayMasks
from nl_course.memories.hope.layer import FastState, SelfModifying, SelfModifyingState
from nl_course.memories.titans.attention import Prefix, Projected, Readable, attend
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.hybrid import Hybrid
from nl_course.memories.titans.mac import MAC, MACState
from nl_course.memories.titans.mag import MAG
from nl_course.memories.titans.mal import MAL, MALState
from nl_course.memories.titans.neural import NeuralMemory, NeuralState
from nl_course.memories.trace import Trace
from nl_course.memories.ttt.layer import TTT, TTTState

PARTS = ("memory", "attention", "persistent")  # of a hybrid
NO_PARTS = "it has no parts beside its memory"
ONLY_INPUTS = ("inner_steps", "last_layer_only", "momentum", "frozen", "without")  # lacked where only inputs can change


class Adapter:
    """One memory under one ablation. Raises CourseError for an option that the memory lacks."""

    seams: tuple[str, ...] = ("write_inputs", "learn")

    def __init__(self, memory: nn.Module, ablation: Ablation):
        lacks = self.lacks(memory)
        for name in ablation.changed:
            if name in lacks:
                raise CourseError(f"{type(memory).__name__} has no ablation {name!r}: {lacks[name]}.")
        self.memory, self.ablation = memory, ablation

    def install(self) -> None:
        """Stands in for the memory's seams, on this object alone."""
        for name in self.seams:
            setattr(self.memory, name, getattr(self, name))

    @classmethod
    def remove(cls, memory: nn.Module) -> None:
        """The methods of the memory's class again."""
        for name in cls.seams:
            vars(memory).pop(name, None)

    @classmethod
    def in_force(cls, memory: nn.Module) -> Ablation:
        """What is installed on a memory."""
        learn = vars(memory).get("learn")
        return Ablation() if learn is None else learn.__self__.ablation

    @staticmethod
    def lacks(memory: nn.Module) -> dict[str, str]:
        """Options that would change nothing here or are not to be had, by name, with the reason."""
        return {}


def refuse_compiled() -> None:
    """Raises CourseError while torch.compile looks on: compiled code would keep the ablation after its end."""
    if torch.compiler.is_compiling():
        raise CourseError("an ablated memory cannot be compiled: train and ask it without compile.")


# -- the last layer alone ----------------------------------------------------------------------------------------------
def features(inner: InnerModel, weights: Weights, x: Tensor) -> Tensor:
    """phi(x), what the last layer is given: (b, h, t, f) -> (b, h, t, m)."""
    for i in range(1, inner.layers):
        x = inner.activate(inner.layer(weights, i, x))  # (b, h, t, m)
    return x


def last_layer(inner: InnerModel, weights: Weights) -> Weights:
    """The last layer's weights under the names that they have in a network of one layer."""
    names = {f"W{inner.layers}": "W1", f"b{inner.layers}": "b1"}
    return Weights({new: weights[old] for old, new in names.items() if old in weights})


def with_last_layer(inner: InnerModel, weights: Weights, last: Weights) -> Weights:
    """`weights`, but for the last layer, which is as in `last`."""
    names = {"W1": f"W{inner.layers}", "b1": f"b{inner.layers}"}
    return Weights(weights | {names[name]: w for name, w in last.items()})


def one_layer(memory: nn.Module) -> nn.Module:
    """The same memory, its parameters too, with an inner network of one layer and no residual path."""
    twin = copy(memory)
    twin.inner = replace(memory.inner, layers=1, residual=False)
    return twin


# -- TTT ---------------------------------------------------------------------------------------------------------------
class AblatedTTT(Adapter):
    """`TTT` with an ablation."""

    memory: TTT

    @staticmethod
    def lacks(memory: TTT) -> dict[str, str]:
        """See `Adapter.lacks`."""
        lacks = {"momentum": "its inner loop has no momentum", "frozen": "it has one memory", "without": NO_PARTS}
        if memory.inner.layers == 1:
            lacks["last_layer_only"] = "its inner network has one layer"
        return lacks

    def write_inputs(self, x: Tensor, state: TTTState) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple]:
        """As `TTT.write_inputs`."""
        refuse_compiled()
        memory, ablation = self.memory, self.ablation
        q, k, v, rate, tails = type(memory).write_inputs(memory, x, state)
        if ablation.read_with == "key":
            q = k
        if not ablation.learning_rate_per_token:
            bias = memory.rate.bias.to(rate.dtype)[:, None]  # (h, 1)
            rate = (memory.config.base_rate / memory.config.head_dim * bias.sigmoid()).expand_as(rate)  # (b, h, t)
        return q, k, v, ablation.sign * rate, tails

    def learn(self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """As `TTT.learn`."""
        if not self.ablation.last_layer_only:
            return self._learn(self.memory, q, k, v, rate, state)
        inner = self.memory.inner
        phi_k, phi_q = (features(inner, state.anchor, x) for x in (k, q))  # (b, h, t, m)
        # Below the last layer no gradient is summed, so the state's zeros stay.
        last = replace(state, anchor=last_layer(inner, state.anchor), grad_accum=last_layer(inner, state.grad_accum))
        z, after = self._learn(one_layer(self.memory), phi_q, phi_k, inner.target(k, v), rate, last)
        after = replace(
            after,
            anchor=with_last_layer(inner, state.anchor, after.anchor),
            grad_accum=with_last_layer(inner, state.grad_accum, after.grad_accum),
        )
        return (z + q if inner.residual else z), after

    def _learn(
        self, memory: TTT, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: TTTState
    ) -> tuple[Tensor, TTTState]:
        if self.ablation.inner_steps > 1:
            return learn_ttt(memory, self.ablation.inner_steps, q, k, v, rate, state)
        return type(memory).learn(memory, q, k, v, rate, state)


# -- Titans ------------------------------------------------------------------------------------------------------------
class AblatedNeuralMemory(Adapter):
    """The neural memory of Titans, MAC, MAG and MAL with an ablation."""

    seams = ("write_inputs", "read_inputs", "learn")
    memory: NeuralMemory

    @staticmethod
    def lacks(memory: NeuralMemory) -> dict[str, str]:
        """See `Adapter.lacks`."""
        lacks = {"frozen": "it has one memory", "without": NO_PARTS}
        if memory.inner.layers == 1:
            lacks["last_layer_only"] = "its inner network has one layer"
        if not memory.config.momentum:
            lacks["momentum"] = "its inner loop has no momentum"
        return lacks

    def write_inputs(self, x: Tensor, conv_states: tuple) -> tuple[Tensor, Tensor, Tensor, Gates, tuple]:
        """As `NeuralMemory.write_inputs`."""
        refuse_compiled()
        memory, ablation = self.memory, self.ablation
        q, k, v, gates, conv_states = type(memory).write_inputs(memory, x, conv_states)
        step = gates.step
        if not ablation.learning_rate_per_token:
            bias = memory.step.bias.to(step.dtype)[:, None]  # (h, 1)
            step = (memory.config.largest_step * bias.sigmoid()).expand_as(step)  # (b, h, t)
        gates = gates._replace(step=ablation.sign * step)
        if not ablation.momentum:
            gates = gates._replace(log_momentum=None)
        return (k if ablation.read_with == "key" else q), k, v, gates, conv_states

    def read_inputs(self, x: Tensor, conv_states: tuple) -> tuple[Tensor, tuple]:
        """As `NeuralMemory.read_inputs`."""
        (q,), conv_states = self.memory.project(x, conv_states, "k" if self.ablation.read_with == "key" else "q")
        return q, conv_states

    def learn(self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState) -> tuple[Tensor, NeuralState]:
        """As `NeuralMemory.learn`."""
        if self.ablation.momentum:
            return self._learn_layers(q, k, v, gates, state)
        # The state keeps its form: with the momentum back, past surprise begins from nothing.
        y, after = self._learn_layers(q, k, v, gates, replace(state, momentum={}))
        return y, replace(after, momentum=Weights(after.memory).map(torch.zeros_like))

    def _learn_layers(
        self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState
    ) -> tuple[Tensor, NeuralState]:
        if not self.ablation.last_layer_only:
            return self._learn(self.memory, q, k, v, gates, state)
        inner, parts = self.memory.inner, ("memory", "momentum", "anchor")
        phi_k, phi_q = (features(inner, state.memory, x) for x in (k, q))  # (b, h, t, m)
        last = replace(state, **{part: last_layer(inner, getattr(state, part)) for part in parts})
        y, after = self._learn(one_layer(self.memory), phi_q, phi_k, inner.target(k, v), gates, last)
        whole = {}
        for part in parts:
            whole[part] = with_last_layer(inner, getattr(state, part), getattr(after, part))
        return (y + q if inner.residual else y), replace(after, **whole)

    def _learn(
        self, memory: NeuralMemory, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState
    ) -> tuple[Tensor, NeuralState]:
        if self.ablation.inner_steps > 1:
            return learn_titans(memory, self.ablation.inner_steps, q, k, v, gates, state)
        return type(memory).learn(memory, q, k, v, gates, state)


class AblatedPooledMemory(AblatedNeuralMemory):
    """A neural memory with pooled gates: only its inputs can be changed."""

    @staticmethod
    def lacks(memory: PooledMemory) -> dict[str, str]:
        """See `Adapter.lacks`."""
        reason = "pooled gates know no such thing"
        return dict.fromkeys(ONLY_INPUTS, reason)


class AblatedInnerMuonMemory(AblatedNeuralMemory):
    """A neural memory that is written by whole chunks: only its inputs can be changed."""

    @staticmethod
    def lacks(memory: InnerMuonMemory) -> dict[str, str]:
        """See `Adapter.lacks`."""
        return dict.fromkeys(ONLY_INPUTS, "a chunk is written as one step")


class AblatedHybrid(Adapter):
    """MAC, MAG or MAL with parts left out; shapes and the size of the state stay as they are. The inner loop is that of
    the neural memory inside, which has an adapter of its own."""

    seams = ("persistent_rows",)
    memory: Hybrid

    def __init__(self, memory: Hybrid, ablation: Ablation):
        super().__init__(memory, ablation)
        for part in ablation.without:
            check_choice("part", part, PARTS)

    @classmethod
    def in_force(cls, memory: Hybrid) -> Ablation:
        """Which parts are left out."""
        persistent_rows = vars(memory).get("persistent_rows")
        return Ablation() if persistent_rows is None else persistent_rows.__self__.ablation

    def leaves_out(self, part: str) -> bool:
        """Whether the ablation leaves that part out."""
        return part in self.ablation.without

    def persistent_rows(self) -> Tensor:
        """As `Hybrid.persistent_rows`: none, if they are left out."""
        refuse_compiled()
        rows = type(self.memory).persistent_rows(self.memory)  # (1, n, d)
        return rows[:, :0] if self.leaves_out("persistent") else rows


class AblatedMAG(AblatedHybrid):
    """MAG with parts left out: in o = y (x) m the part that is left out counts as 1. With a residual path around
    attention y = x is left of it."""

    seams = ("persistent_rows", "attend")
    memory: MAG | MAC

    def install(self) -> None:
        """Stands in for the seams of the layer and for the layer's merging."""
        super().install()
        self.memory.merge.forward = self.merge

    @classmethod
    def remove(cls, memory: MAG | MAC) -> None:
        """The methods of the classes again."""
        super().remove(memory)
        vars(memory.merge).pop("forward", None)

    def attend(self, own: Projected, key: Tensor, value: Tensor, prefix: Prefix) -> Tensor:
        """As `MAG.attend`."""
        y = type(self.memory).attend(self.memory, own, key, value, prefix)  # (b, t, d)
        return torch.zeros_like(y) if self.leaves_out("attention") else y

    def merge(self, y: Tensor, m: Tensor) -> Tensor:
        """As `Gated.forward`."""
        merge = self.memory.merge
        has_y = self.memory.config.attention_residual or not self.leaves_out("attention")
        y = merge.y_norm(y) if has_y else None
        m = None if self.leaves_out("memory") else merge.m_norm(m)
        if merge.gate is None:
            factors = [y, None if m is None else silu(m)]
        else:
            factors = [m, None if y is None else silu(merge.gate(y))]
        left = [factor for factor in factors if factor is not None]
        if not left:
            raise CourseError("with neither attention nor memory nothing is left of the layer; leave out one of them.")
        return merge.output(math.prod(left))


class AblatedMAC(AblatedMAG):
    """MAC with parts left out. Without attention y is the segment itself; without the memory no row is retrieved."""

    seams = ("persistent_rows", "advance", "attend")
    memory: MAC

    def advance(self, x: Tensor, state: MACState, trace: Trace | None) -> tuple[Tensor, MACState]:
        """As `MAC.advance`."""
        self.rows_to_come = x  # attention gets projections; without it y is made of the rows themselves
        try:
            return type(self.memory).advance(self.memory, x, state, trace)
        finally:
            self.rows_to_come = None  # no graph outlives the call

    def attend(self, own: Projected, cache: TokenCache, prefix: Prefix) -> Tensor:
        """As `MAC.attend`, for the next tokens of the text."""
        tokens = own.query.shape[2]
        rows = self.rows_to_come[:, :tokens]  # (b, t, d)
        self.rows_to_come = self.rows_to_come[:, tokens:]
        if self.leaves_out("attention"):
            # The residual path, if there is one, adds the rows by itself.
            return torch.zeros_like(rows) if self.memory.config.attention_residual else rows
        if not self.leaves_out("memory"):
            return type(self.memory).attend(self.memory, own, cache, prefix)
        _, _, key, value = cache.columns.chunk(4, dim=-1)  # (b, h, s, f)
        allowed = torch.ones(tokens, len(cache), dtype=torch.bool, device=key.device)
        allowed = allowed.tril(len(cache) - tokens)  # (t, s), causal
        y = attend(own, prefix, [Readable(key, value, allowed)])  # (b, h, t, f)
        return self.memory.attention.join_heads(y)


class AblatedMAL(AblatedHybrid):
    """MAL with parts left out. The residual path goes around the memory. What is left of attention is its input; with a
    residual path around it nothing is, and the layer returns what the memory adds."""

    seams = ("persistent_rows", "init_state", "advance", "remember", "attend")
    memory: MAL

    def init_state(self, batch_size: int) -> MALState:
        """As `MAL.init_state`."""
        return self._forgetting_input(type(self.memory).init_state, batch_size)

    def advance(self, x: Tensor, state: MALState, trace: Trace | None) -> tuple[Tensor, MALState]:
        """As `MAL.advance`."""
        return self._forgetting_input(type(self.memory).advance, x, state, trace)

    def _forgetting_input(self, method: Callable, *arguments: Any) -> Any:
        """What the memory's own method gives. No graph outlives the call: a model that holds one cannot be copied."""
        try:
            return method(self.memory, *arguments)
        finally:
            self.attention_input = None

    def remember(
        self, x: Tensor, neural: NeuralState, conv_states: tuple, trace: Trace | None = None, persistent: int = 0
    ) -> tuple[Tensor, Tensor, NeuralState, tuple]:
        """As `MAL.remember`."""
        memory = self.memory
        m, y, neural, conv_states = type(memory).remember(memory, x, neural, conv_states, trace, persistent)
        if self.leaves_out("memory"):
            m = torch.zeros_like(m)
            y = memory.between_norm(x)
        self.attention_input = y
        return m, y, neural, conv_states

    def attend(self, own: Projected, key: Tensor, value: Tensor, prefix: Prefix) -> Tensor:
        """As `MAL.attend`."""
        if self.leaves_out("attention"):
            y = self.attention_input
            return torch.zeros_like(y) if self.memory.config.attention_residual else y
        return type(self.memory).attend(self.memory, own, key, value, prefix)


# -- self-modifying Titans ---------------------------------------------------------------------------------------------
class LastLayer(Network):
    """A memory of two layers whose first layer is read but not written."""

    def inputs(self, M: Weights, z: Tensor) -> Weights:
        """What the layers that are written are given."""
        return without_first(super().inputs(M, z))


class LastLayers(MLPBank):
    """A bank of such memories."""

    def network(self, name: str) -> LastLayer:
        """The memory of that name by itself."""
        return LastLayer(**super().network(name)._asdict())

    def inputs(self, weights: Weights, k: Tensor) -> Weights:
        """What the layers that are written are given."""
        return without_first(super().inputs(weights, k))

    def rank_one_grads(
        self, anchor: Weights, k: Tensor, v: Tensor | None, shared_targets: Weights | None, stop: bool
    ) -> dict[str, RankOneGrad]:
        """The gradients of the layers that are written."""
        return without_first(super().rank_one_grads(anchor, k, v, shared_targets, stop))


def without_first(by_layer: dict) -> dict:
    """The same, of the same kind, without the first layers."""
    return type(by_layer)((name, part) for name, part in by_layer.items() if name != "into")


class AblatedSelfModifying(Adapter):
    """`SelfModifying` with an ablation. The sign is part of its rule, because the step that is flipped also erases."""

    memory: SelfModifying

    def __init__(self, memory: SelfModifying, ablation: Ablation):
        super().__init__(memory, ablation)
        for name in ablation.frozen:
            check_choice("frozen memory", name, memory.config.names)

    @staticmethod
    def lacks(memory: SelfModifying) -> dict[str, str]:
        """See `Adapter.lacks`."""
        lacks = {"without": NO_PARTS}
        if not memory.config.momentum:
            lacks["momentum"] = "it was built without momentum"
        if memory.config.kind == "linear":
            lacks["last_layer_only"] = "linear memories have one layer"
        if isinstance(memory, SharedGain):
            lacks["inner_steps"] = "there is one gain for all memories"
            lacks["frozen"] = "memories share what moves, none can be frozen alone"
        return lacks

    def write_inputs(self, x: Tensor, state: SelfModifyingState) -> tuple[dict[str, Tensor], FastState, Tensor | None]:
        """As `SelfModifying.write_inputs`. The memories beside M_memory are written on the way, through `learn`."""
        refuse_compiled()
        signals, others, tail = type(self.memory).write_inputs(self.memory, x, state)
        signals["step"] = self._step(signals["step"])
        if self.ablation.read_with == "key":
            signals["query"] = signals["key"]
        return signals, others, tail

    def learn(
        self,
        bank: Bank,
        fast: FastWeights,
        signals: dict[str, Tensor],
        fresh: bool,
        masks: DecayMasks | None = None,
        running: bool = False,
    ) -> tuple[FastWeights, Tensor | None]:
        """As `SelfModifying.learn`. `masks` are made again here: they may be of other steps, and with momentum."""
        memory, ablation = self.memory, self.ablation
        if set(ablation.frozen) >= set(bank.names):
            return fast, None
        signals = signals | {"step": self._step(signals["step"])}
        if ablation.last_layer_only:
            bank = LastLayers(bank.names, bank.width, bank.hidden, bank.activation)
        twin, given = copy(memory), fast
        twin.rule = memory.rule._replace(sign=ablation.sign)
        if not ablation.momentum:
            twin.rule, given = twin.rule._replace(momentum=0.0), fast._replace(momentum=Weights())
        if ablation.inner_steps > 1:
            after, o = learn_hope(twin, ablation.inner_steps, bank, given, signals, fresh, running)
        else:
            after, o = type(memory).learn(twin, bank, given, signals, fresh, None, running)
        if not ablation.momentum:
            after = after._replace(momentum=Weights(fast.momentum).map(torch.zeros_like))
        return self._kept_frozen(bank, fast, after), o

    def _step(self, step: Tensor) -> Tensor:
        """eta (b, h, t)."""
        if self.ablation.learning_rate_per_token:
            return step
        bias = self.memory.step_bias.to(step.dtype)[:, None]  # (h, 1)
        return (self.memory.config.max_step * bias.sigmoid()).expand_as(step)  # (b, h, t)

    def _kept_frozen(self, bank: Bank, before: FastWeights, after: FastWeights) -> FastWeights:
        """`after`, but for the frozen memories of the bank, which are as before."""
        frozen = self.ablation.frozen
        if not set(frozen) & set(bank.names):
            return after
        kept = []
        for old, new in ((before.running, after.running), (before.momentum, after.momentum)):
            if new:
                apart, moved = bank.spread(old), bank.spread(new)
                new = bank.gather({name: (apart if name in frozen else moved)[name] for name in bank.names})
            kept.append(new)
        return after._replace(running=kept[0], momentum=kept[1])


ADAPTERS: dict[type, type[Adapter]] = {
    TTT: AblatedTTT,
    PooledMemory: AblatedPooledMemory,
    InnerMuonMemory: AblatedInnerMuonMemory,
    NeuralMemory: AblatedNeuralMemory,
    MAC: AblatedMAC,
    MAG: AblatedMAG,
    MAL: AblatedMAL,
    SelfModifying: AblatedSelfModifying,
}
