"""The inner loop: one call's passage through the levels that move, from boundary to boundary, in any split of the text.

    for each segment (clocks.py):
        read its tokens with the weights as they are                               -> logits
        when the token after its last one has arrived:  the boundary               -> new weights (steps.py)

`InnerLoop.read` is that loop and `InnerLoop._boundary` the only place where weights change. A segment that lies whole
within a call runs once: its loss is taken from the logits that it gives anyway. A segment that was begun in an earlier
call is run once more at its end, from what the state keeps of its beginning.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from nl_course.memories import State, Trace, tree
from nl_course.memories.attention.cache import TokenCache
from nl_course.nested.clocks import at_boundary, needs_accumulator, segment_end, segment_start
from nl_course.nested.config import NestedConfig
from nl_course.nested.levels import FastWeights, LevelPass, LevelWeights
from nl_course.nested.recompute import recomputed
from nl_course.nested.state import NestedState, OpenState
from nl_course.nested.steps import (
    ClockedLevel,
    GradAccumulator,
    GradFactors,
    SegmentGrads,
    as_constants,
    boundary_step,
    gradient_norm,
    pair_norm,
    segment_gradients,
)

States = tuple[State, ...]
# (inputs of the lowest moving level (B, n, width), states of the blocks above it, weights, passes to fill, trace)
# -> (logits (B, n, V), states after the last token)
RunAbove = Callable[[Tensor, States, FastWeights, dict[str, LevelPass], Trace | None], tuple[Tensor, States]]


class InnerLoop:
    """Reads tokens after `state` and takes the steps that fall due.

    `run_above` is the network from the lowest moving level up. With `recompute_with`, the parameters of that network,
    its segments are computed a second time for their gradient (recompute.py); not where a trace is wanted.
    """

    def __init__(
        self,
        config: NestedConfig,
        levels: list[ClockedLevel],
        run_above: RunAbove,
        state: NestedState,
        trace: Trace | None,
        recompute_with: list[Tensor] | None = None,
    ) -> None:
        self.config = config
        self.levels = levels
        self.run_above = run_above
        self.trace = trace
        self.recompute_with = recompute_with
        self.chunks = [clocked.chunk for clocked in levels]

        # Where we are: tokens read in all, and after how many of them the open segment began.
        self.position = state.position
        self.start = segment_start(state.position, self.chunks)

        # A level slower than the segments steps by the gradients of several; those of closed ones come with the state,
        # unless they were used up at the last boundary.
        self.fast: FastWeights = {name: _shared(pair) for name, pair in state.fast.items()}
        self.accumulators: dict[str, GradAccumulator] = {}
        for clocked in levels:
            name = clocked.name
            empty = name not in state.grad_accum or at_boundary(self.start, clocked.chunk)
            total = None if empty else state.grad_accum[name]
            self.accumulators[name] = GradAccumulator(total, self.fast[name][0].dtype)

        # The blocks above the lowest moving level: now, to read on, and when the open segment began, to run it again.
        self.states_at_start: States = tuple(block.at_start for block in state.above)
        self.states_now: States = tuple(block.now for block in state.above)

        # The open segment: what went into the lowest moving level, and the targets that have arrived so far.
        self.pending = state.pending  # (B, n, width)
        self.targets = state.targets  # (B, n - 1)
        self.segment_grads: SegmentGrads | None = None  # of the segment just ended, if it was run whole

        # Weights before the last boundary, and gradients of the segment that it closed: the trace reports them with the
        # token that caused the step, which is read only after it.
        self.last_boundary: tuple[FastWeights, SegmentGrads] | None = None

    @property
    def end(self) -> int:
        """After how many tokens the open segment ends."""
        return segment_end(self.start, self.chunks)

    def read(self, h: Tensor, tokens: Tensor) -> Tensor:
        """h (B, T, width), the inputs of the lowest moving level for tokens (B, T), T >= 1 -> logits (B, T, V)."""
        logits = []
        total = tokens.shape[1]
        first = 0
        while first < total:
            # The next token is the last target of a full segment: the step comes before that token is read.
            if self.position == self.end:
                self._boundary(tokens[:, first : first + 1])
            stop = min(first + self.end - self.position, total)  # up to the boundary or the end of the call
            self._trace_levels(h[:, first:stop])

            begins_here = self.position == self.start
            ends_here = self.position + stop - first == self.end and stop < total
            if begins_here and ends_here:
                targets = tokens[:, first + 1 : stop + 1]  # (B, n)
                logits.append(self._read_whole(h[:, first:stop], targets))
            else:
                logits.append(self._read_part(h[:, first:stop], tokens[:, first:stop]))
            self.position += stop - first
            first = stop
        return torch.cat(logits, dim=1)  # (B, T, V)

    def state_after(self, below: States) -> NestedState:
        """The state after what was read; `below` are the states of the blocks up to the lowest moving level."""
        rows = len(self.targets)
        open_tokens = self.position - self.start
        above = []
        for at_start, now in zip(self.states_at_start, self.states_now, strict=True):
            above.append(OpenState(at_start, now, open_tokens))
        fast = {}
        grad_accum = {}
        for clocked in self.levels:
            name = clocked.name
            fast[name] = tuple(w.expand(rows, *w.shape[-2:]) for w in self.fast[name])  # (B, in, out) each
            if needs_accumulator(clocked.chunk, self.chunks):
                gradient = self.accumulators[name].gradient()
                grad_accum[name] = tuple(map(torch.zeros_like, fast[name])) if gradient is None else gradient
        return NestedState(below, tuple(above), fast, grad_accum, self.pending, self.targets, self.position)

    # -- reading a segment -----------------------------------------------------------------------------------------
    def _read_part(self, h: Tensor, tokens: Tensor) -> Tensor:
        """A piece of a segment that did not begin in this call, or does not end in it: kept for the segment's end."""
        logits, self.states_now = self.run_above(h, self.states_now, self.fast, {}, self.trace)
        # The first token of a segment is a target of the segment before it.
        new_targets = tokens if len(self.pending) else tokens[:, 1:]
        self.targets = torch.cat([self.targets, new_targets], dim=1)
        self.pending = self.pending.append(h)
        return logits

    def _read_whole(self, h: Tensor, targets: Tensor) -> Tensor:
        """A segment that begins and ends in this call: its gradients come with its logits."""
        self.segment_grads, logits, self.states_now = self._gradients(h, self.states_now, targets, self.trace)
        if torch.is_grad_enabled():
            return logits
        self.states_now = tuple(state.detach() for state in self.states_now)
        return logits.detach()

    def _gradients(
        self, h: Tensor, states: States, targets: Tensor, trace: Trace | None = None
    ) -> tuple[SegmentGrads, Tensor, States]:
        """The gradients of the segment that `h` and `states` begin, its logits, and the states at its end."""
        outer = torch.is_grad_enabled()  # is there an outer loop that will differentiate this?
        if outer and self.recompute_with is not None and trace is None:
            return _recomputed_gradients(
                self.run_above, self.recompute_with, h, self.fast, states, targets, self.config.first_order
            )
        return segment_gradients(
            lambda x, passes: self.run_above(x, states, self.fast, passes, trace),
            h,
            targets,
            second_order=outer and not self.config.first_order,
            keep_graph=outer,
        )

    # -- the boundary ----------------------------------------------------------------------------------------------
    def _boundary(self, token: Tensor) -> None:
        """Closes the open segment, now that its last target `token` (B, 1) is there: the levels due take their step."""
        # A segment that was read in pieces has no graph that spans the calls, so it is run once more as a whole, from
        # the states at its start. One that was read whole has brought its gradients along.
        grads = self.segment_grads
        if grads is None:
            targets = torch.cat([self.targets, token], dim=1)  # (B, n)
            grads, _, _ = self._gradients(self.pending.columns, self.states_at_start, targets)
        for name, level_grad in grads.items():
            self.accumulators[name].add(level_grad)

        # The write. A gradient must count once, so the levels that took a step begin with empty accumulators.
        self.last_boundary = (self.fast, grads)
        self.fast = boundary_step(self.config, self.levels, self.fast, self.accumulators, self.position)
        for clocked in self.levels:
            if at_boundary(self.position, clocked.chunk):
                self.accumulators[clocked.name] = GradAccumulator(None, self.fast[clocked.name][0].dtype)

        # Truncation: the outer gradient may pass through `truncate` boundaries of the fastest level in a row.
        passable = self.config.truncate
        if passable is not None and self.position // min(self.chunks) % (passable + 1) == 0:
            self.fast = as_constants(self.levels, self.fast)
            self.accumulators = {name: accumulator.detach() for name, accumulator in self.accumulators.items()}

        # A new segment begins. What its gradient must treat as constant is what is carried into it here.
        self.start = self.position
        self.states_at_start = self.states_now
        self.segment_grads = None
        self.pending = TokenCache.of(self.pending.columns[:, :0])  # (B, 0, width)
        self.targets = self.targets[:, :0]  # (B, 0)

    # -- traces ----------------------------------------------------------------------------------------------------
    def _trace_levels(self, h: Tensor) -> None:
        """Adds every level's traces for the next tokens, whose inputs are h (B, n, width); (B, n) each.

        `changed`: whether the level took a step as the token arrived; `update_norm`: how far that moved its weights;
        `gradient_norm`: of the segment that the token closed, 0 if it closed none; `drift`: the weights' distance from
        their start.
        """
        last_boundary = self.last_boundary
        self.last_boundary = None
        if self.trace is None:
            return
        before, grads = last_boundary or (self.fast, None)
        zero = h.new_zeros(h.shape[0])  # (B,)
        for clocked in self.levels:
            name = clocked.name
            level = clocked.level
            trace = self.trace.scope(name)
            changed = grads is not None and at_boundary(self.position, clocked.chunk)
            gradient = gradient_norm(grads[name]) if grads else zero
            drift = zero + _distance(self.fast[name], (level.first, level.last))
            trace.add("changed", _at_first(zero + changed, h))
            trace.add("update_norm", _at_first(zero + _distance(self.fast[name], before[name]), h))
            trace.add("gradient_norm", _at_first(gradient, h))
            trace.add("drift", drift[:, None].expand(h.shape[:2]))  # (B, n)


# -- a segment that is recomputed --------------------------------------------------------------------------------------
def _recomputed_gradients(
    run_above: RunAbove,
    parameters: list[Tensor],
    h: Tensor,
    fast: FastWeights,
    states: States,
    targets: Tensor,
    first_order: bool,
) -> tuple[SegmentGrads, Tensor, States]:
    """`segment_gradients` of a segment that keeps only what went into it.

    Autograd takes and gives flat lists of tensors here, so weights, gradients and states are taken apart and rebuilt.
    The segment's function must not hold on to what comes out of it: a graph that holds itself is never freed.
    """
    names = list(fast)
    seen: dict[str, object] = {}  # from the first run: which levels have gradients, and the states at the end

    def segment(tensors: Sequence[Tensor], differentiable: bool) -> list[Tensor]:
        """Flat inputs -> logits, then the factors of all gradients, then the states at the end, flat."""
        given = iter(tensors)
        x = next(given)
        weights = {name: (next(given), next(given)) for name in names}
        begin = tuple(state.map(lambda _: next(given)) for state in states)
        grads, logits, end = segment_gradients(
            lambda x, passes: run_above(x, begin, weights, passes, None),
            x,
            targets,
            second_order=differentiable and not first_order,
            keep_graph=differentiable,
        )
        if not differentiable:
            seen["names"] = list(grads)
            seen["end"] = tuple(state.detach() for state in end)
        return [logits, *_grad_tensors(grads), *_state_tensors(end)]

    flat_weights: list[Tensor] = []
    for pair in fast.values():
        flat_weights += pair
    outputs = iter(recomputed(segment, [h, *flat_weights, *_state_tensors(states)], parameters))
    logits = next(outputs)
    grads: SegmentGrads = {}
    for name in seen.pop("names"):
        first = GradFactors(next(outputs), next(outputs))
        last = GradFactors(next(outputs), next(outputs))
        grads[name] = (first, last)
    end = tuple(state.map(lambda _: next(outputs)) for state in seen.pop("end"))
    return grads, logits, end


def _grad_tensors(grads: SegmentGrads) -> list[Tensor]:
    """The tensors of all factors, level by level: W1's inputs and errors, then W2's."""
    tensors: list[Tensor] = []
    for first, last in grads.values():
        tensors += [*first, *last]
    return tensors


def _state_tensors(states: States) -> list[Tensor]:
    """The tensors of all states, in the order in which `State.map` meets them."""
    return [t for _, t in tree.leaves(states)]


# -- small things ------------------------------------------------------------------------------------------------------
def _shared(pair: LevelWeights) -> LevelWeights:
    """(in, out) where all rows have the same weights, for then one product serves them all; else (B, in, out)."""
    return tuple(w[0] if w.stride(0) == 0 else w for w in pair)


@torch.no_grad()
def _distance(a: LevelWeights, b: LevelWeights) -> Tensor:
    """The norm of a - b, both matrices together, for each row: (B,), or () if all rows share them."""
    return pair_norm(tuple(x - y for x, y in zip(a, b, strict=True)))


def _at_first(value: Tensor, h: Tensor) -> Tensor:
    """value (B,) at the first of the tokens of h (B, n, width), and 0 at the others: (B, n)."""
    return pad(value[:, None], (0, h.shape[1] - 1))
