"""One call's passage through the levels that move: from boundary to boundary, in any split of the text.

A segment that lies whole within a call is run once: its loss is taken from the logits it gives anyway. One that was
begun in an earlier call is run again at its end, from what the state keeps of its beginning.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nl_course.memories import State, Trace
from nl_course.memories.attention.cache import TokenCache
from nl_course.nested.clocks import closes_at, needs_accumulator, open_since
from nl_course.nested.config import NestedConfig
from nl_course.nested.levels import Notes, Pair
from nl_course.nested.recompute import recomputed
from nl_course.nested.state import NestedState, OpenState
from nl_course.nested.steps import (
    Clocked,
    Gathered,
    Learnt,
    Weights,
    constant,
    move,
    norm,
    norm_of_products,
    segment_errors,
)

States = tuple[State, ...]
# (inputs of the lowest moving level (B, n, width), states of the blocks above it, weights, notes to fill, trace)
# -> (logits (B, n, V), states)
Run = Callable[[Tensor, States, Weights, dict[str, Notes], Trace | None], tuple[Tensor, States]]


class Reader:
    """Reads a piece of text after `state`; `run` is the network from the lowest moving level up. With `recompute`, the
    parameters of that network, its segments are computed a second time for their gradient (recompute.py)."""

    def __init__(
        self,
        config: NestedConfig,
        levels: list[Clocked],
        run: Run,
        state: NestedState,
        trace: Trace | None,
        recompute: list[Tensor] | None = None,
    ):
        self.config, self.levels, self.run, self.trace, self.recompute = config, levels, run, trace, recompute
        self.chunks = [clocked.chunk for clocked in levels]
        self.position = state.position
        self.start = open_since(state.position, self.chunks)  # after how many tokens the open segment began
        self.fast = {name: tuple(_shared(w) for w in pair) for name, pair in state.fast.items()}
        self.chunk_of = {clocked.name: clocked.chunk for clocked in levels}
        self.gathered = {}
        for name, level, _ in levels:
            fresh = name not in state.gathered or self.start % level.config.chunk == 0
            self.gathered[name] = Gathered(None if fresh else state.gathered[name], self.fast[name][0].dtype)
        self.then, self.now = (tuple(getattr(block, when) for block in state.above) for when in ("then", "now"))
        self.pending, self.targets = state.pending, state.targets
        self.learnt: Learnt | None = None  # from the segment just ended, if it was run whole
        self.moved: tuple[Weights, Learnt] | None = None  # what the boundary before the next token began with

    @property
    def end(self) -> int:
        """After how many tokens the open segment ends."""
        return closes_at(self.start, self.chunks)

    def read(self, h: Tensor, tokens: Tensor) -> Tensor:
        """h (B, T, width) for tokens (B, T), T >= 1 -> logits (B, T, V)."""
        logits, i, last = [], 0, tokens.shape[1]
        while i < last:
            if self.position == self.end:
                self._close(tokens[:, i : i + 1])
            j = min(i + self.end - self.position, last)
            self._explain(h[:, i:j])
            whole = self.position == self.start and self.position + j - i == self.end and j < last
            if whole:
                logits.append(self._read_whole(h[:, i:j], tokens[:, i + 1 : j + 1]))
            else:
                logits.append(self._read_on(h[:, i:j], tokens[:, i:j]))
            self.position += j - i
            i = j
        return torch.cat(logits, dim=1)

    def after(self, below: States) -> NestedState:
        """The state after what was read."""
        tokens, rows = self.position - self.start, len(self.targets)
        above = tuple(OpenState(then, now, tokens) for then, now in zip(self.then, self.now, strict=True))
        fast = {name: tuple(w.expand(rows, *w.shape[-2:]) for w in pair) for name, pair in self.fast.items()}
        gathered = {}
        for name, pair in fast.items():
            if needs_accumulator(self.chunk_of[name], self.chunks):
                total = self.gathered[name].gradient()
                gathered[name] = tuple(torch.zeros_like(w) for w in pair) if total is None else total
        return NestedState(below, above, fast, gathered, self.pending, self.targets, self.position)

    def _read_on(self, h: Tensor, tokens: Tensor) -> Tensor:
        """A piece of a segment that does not end in this call, or did not begin in it: kept for the segment's end."""
        logits, self.now = self.run(h, self.now, self.fast, {}, self.trace)
        self.targets = torch.cat([self.targets, tokens if len(self.pending) else tokens[:, 1:]], dim=1)
        self.pending = self.pending.append(h)
        return logits

    def _read_whole(self, h: Tensor, targets: Tensor) -> Tensor:
        """A segment that begins and ends in this call."""
        self.learnt, logits, self.now = self._learn(h, self.now, targets, self.trace)
        if torch.is_grad_enabled():
            return logits
        self.now = tuple(state.detach() for state in self.now)
        return logits.detach()

    def _learn(self, h: Tensor, states: States, targets: Tensor, trace: Trace | None = None):
        outer = torch.is_grad_enabled()
        if outer and self.recompute is not None and trace is None:
            return _forgetful(self.run, self.recompute, h, self.fast, states, targets, self.config.first_order)
        graph = outer and not self.config.first_order
        return segment_errors(
            lambda x, notes: self.run(x, states, self.fast, notes, trace), h, targets, graph, keep=outer
        )

    def _close(self, token: Tensor) -> None:
        """The boundary at which `token` (B, 1), the open segment's last target, has arrived: the inner step."""
        learnt = self.learnt
        if learnt is None:
            targets = torch.cat([self.targets, token], dim=1)
            learnt, _, _ = self._learn(self.pending.columns, self.then, targets)
        for name, notes in learnt.items():
            self.gathered[name].add(notes)
        self.moved = (self.fast, learnt)
        self.fast = move(self.config, self.levels, self.fast, self.gathered, self.position)
        for name, chunk in self.chunk_of.items():
            if self.position % chunk == 0:
                self.gathered[name] = Gathered(None, self.fast[name][0].dtype)
        passes = self.config.truncate
        if passes is not None and self.position // min(self.chunks) % (passes + 1) == 0:
            self.fast = constant(self.levels, self.fast)
            self.gathered = {name: gathered.detach() for name, gathered in self.gathered.items()}
        self.then, self.start, self.learnt = self.now, self.position, None
        self.pending, self.targets = TokenCache.of(self.pending.columns[:, :0]), self.targets[:, :0]

    def _explain(self, h: Tensor) -> None:
        """For the next tokens, the inputs h (B, n, width), and every level that moves: whether it `changed` as the
        token arrived and by how much (`update_norm`), the norm of the gradient of the segment that the token ended
        (`gradient_norm`; 0 for a token that ended none), and the weights' distance from their start (`drift`)."""
        moved, self.moved = self.moved, None
        if self.trace is None:
            return
        before, learnt = moved or (self.fast, None)
        for name, level, _ in self.levels:
            trace, none = self.trace.scope(name), h.new_zeros(h.shape[0])
            changed = learnt is not None and self.position % level.config.chunk == 0
            trace.add("changed", _first(none + changed, h))
            trace.add("update_norm", _first(none + _distance(self.fast[name], before[name]), h))
            trace.add("gradient_norm", _first(norm_of_products(learnt[name]) if learnt else none, h))
            drift = none + _distance(self.fast[name], (level.first, level.last))
            trace.add("drift", drift[:, None].expand(h.shape[:2]))


def _forgetful(
    run: Run, parameters: list[Tensor], h: Tensor, fast: Weights, states: States, targets: Tensor, first_order: bool
):
    """`segment_errors` of a segment that forgets. It must not keep hold of what comes out of it: a graph that holds
    itself is never freed."""
    shape = {}

    def segment(tensors: Sequence[Tensor], graph: bool) -> list[Tensor]:
        given = iter(tensors)
        x, weights = next(given), {name: (next(given), next(given)) for name in names}
        before = tuple(state.map(lambda _: next(given)) for state in states)
        learnt, logits, after = segment_errors(
            lambda x, notes: run(x, before, weights, notes, None), x, targets, graph and not first_order, keep=graph
        )
        if not graph:
            shape.update(learnt=list(learnt), after=tuple(state.detach() for state in after))
        return [logits, *(t for pair in learnt.values() for part in pair for t in part), *_tensors(after)]

    names = list(fast)
    weights = [w for pair in fast.values() for w in pair]
    out = iter(recomputed(segment, [h, *weights, *_tensors(states)], parameters))
    logits = next(out)
    learnt = {name: ((next(out), next(out)), (next(out), next(out))) for name in shape.pop("learnt")}
    return learnt, logits, tuple(state.map(lambda _: next(out)) for state in shape.pop("after"))


def _tensors(states: States) -> list[Tensor]:
    """The tensors of all states, in the order in which `State.map` meets them."""
    found: list[Tensor] = []
    for state in states:
        state.map(lambda t: found.append(t) or t)
    return found


def _shared(w: Tensor) -> Tensor:
    """(in, out) if all rows have the same weights, for then one product serves them all; else w (B, in, out)."""
    return w[0] if w.stride(0) == 0 else w


@torch.no_grad()
def _distance(a: Pair, b: Pair) -> Tensor:
    return norm(tuple(x - y for x, y in zip(a, b, strict=True)))


def _first(value: Tensor, h: Tensor) -> Tensor:
    """value (B,) at the first of the tokens of h (B, n, width), 0 at the others: (B, n)."""
    return torch.nn.functional.pad(value[:, None], (0, h.shape[1] - 1))
