"""A language model some of whose levels learn, as they read, from the model's own next-token loss.

    model = NestedLanguageModel(preset("hope-attention-micro"))
    logits, state = model(tokens)                  training, evaluation and generation are this one program

Each block is a memory and then a continuum memory system (levels.py; Behrouz et al. 2025, "Nested Learning", arXiv
2512.24695, sections 7 and 8). A level with chunk C keeps its weights for C tokens, then takes one step down the summed
loss of those tokens, for each row of the batch by itself. That step is taken when token C + 1 arrives, the last target
of the chunk, and before it is read (clocks.py).

    tokens -> embedding -> blocks below the lowest moving level, all tokens at once            `_read_below`
           -> levels and blocks above, from boundary to boundary                               inner_loop.py
           -> logits

Under autograd the outer gradient passes through all steps, exactly, to the levels' starts, their rates and everything
else. The config's `truncate` and `first_order` are named ways to pay less. What we chose: the loss of a segment is
differentiated with everything that was carried into it constant, which the paper leaves open; and a level's start is
learned by training alone. In the paper's nested variant (equation 72) the next slower level learns it, and the level
goes back to it when its context ends; that variant is not built here. What stands above a moving level is
differentiated twice, so attention takes its "reference" path there.
"""

from dataclasses import replace

import torch
from torch import Tensor

from nl_course.memories import State, Trace
from nl_course.memories.attention.cache import TokenCache
from nl_course.model import LanguageModel
from nl_course.nested.clocks import needs_accumulator, segment_start
from nl_course.nested.config import NestedConfig
from nl_course.nested.inner_loop import InnerLoop, States
from nl_course.nested.levels import FastWeights, LevelPass, NestedBlock, path_under_a_level
from nl_course.nested.state import NestedState, OpenState, is_a_cache
from nl_course.nested.steps import clocked_levels, next_token_losses


class NestedLanguageModel(LanguageModel):
    """Tokens in, next-token logits out, as `LanguageModel`; its state holds the moving levels' weights, a set per row.

    `clocked` are the levels that move, `chunks` their chunks, and `lowest` is the first block that has one.
    `path` picks the memories' implementation. With `recompute`, which may be set at any time, training keeps of a
    segment only what went into it and computes it a second time for its gradient; not where a trace is wanted.

    Traces, (B, T) each: `loss`, what the model paid for each token when it arrived (not a number for the first token of
    a text); for each moving level `layers.i.levels.j.` `changed`, `update_norm`, `gradient_norm` and `drift`; and the
    memories' own.
    """

    def __init__(self, config: NestedConfig, path: str = "auto", recompute: bool = False) -> None:
        super().__init__(config, path)
        self.recompute = recompute
        self.clocked = clocked_levels(config, self.layers)
        self.chunks = [clocked.chunk for clocked in self.clocked]

    def _blocks(self, config: NestedConfig, path: str) -> list[NestedBlock]:
        moving = []  # the blocks with a level that moves
        for i, levels in enumerate(config.levels):
            if any(level.chunk for level in levels):
                moving.append(i)
        self.lowest = min(moving, default=config.layers - 1)
        # Memories above the lowest moving level are differentiated twice, which not every path can be.
        path_above = path
        if moving and self.lowest < config.layers - 1:
            path_above = path_under_a_level(config.memory, path)
        blocks = []
        for i, levels in enumerate(config.levels):
            blocks.append(NestedBlock(config, levels, i, path if i <= self.lowest else path_above))
        return blocks

    outside_state = ("truncate", "first_order")  # of the outer loop alone

    # -- state ---------------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> NestedState:
        """The start of a text: empty memories, and every moving level at its learned start."""
        states = [layer.init_state(batch_size) for layer in self.layers]
        below = tuple(states[: self.lowest + 1])
        above = tuple(OpenState(state, state, 0) for state in states[self.lowest + 1 :])
        fast = {}
        grad_accum = {}
        for clocked in self.clocked:
            pair = clocked.level.start(batch_size)  # (B, in, out) each
            fast[clocked.name] = pair
            if needs_accumulator(clocked.chunk, self.chunks):
                grad_accum[clocked.name] = tuple(map(torch.zeros_like, pair))
        table = self.embedding.weight  # (vocab, width)
        pending = TokenCache.of(table.new_empty(batch_size, 0, table.shape[1]))  # (B, 0, width)
        targets = torch.empty(batch_size, 0, dtype=torch.int64, device=table.device)
        return NestedState(below, above, fast, grad_accum, pending, targets, 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The formula for `state.nbytes` after `tokens` tokens, in bytes. With n tokens in the open segment, per row:

        * the memories; and those above the lowest moving level a second time, as they were n tokens ago (of a cache of
          tokens only what was added since counts);
        * every moving level's two matrices, and once more for levels slower than the segments (their accumulators);
        * n inputs of the lowest moving level, and n - 1 targets of 8 bytes each.
        """
        item = self.embedding.weight.element_size()
        open_tokens = tokens - segment_start(tokens, self.chunks)
        total = 0
        for layer in self.layers[: self.lowest + 1]:
            total += layer.state_bytes(tokens, batch_size)
        for layer in self.layers[self.lowest + 1 :]:
            added = open_tokens if is_a_cache(layer.memory.init_state(1)) else tokens
            total += layer.memory.state_bytes(tokens - open_tokens, batch_size)
            total += layer.memory.state_bytes(added, batch_size) + 2 * layer.conv_state_bytes(batch_size)
        for clocked in self.clocked:
            copies = 2 if needs_accumulator(clocked.chunk, self.chunks) else 1
            total += batch_size * copies * clocked.level.config.elements(self.config.width) * item
        if self.clocked:
            total += batch_size * (open_tokens * self.config.width * item + max(open_tokens - 1, 0) * 8)
        return total

    # -- reading ---------------------------------------------------------------------------------------------------
    def forward(
        self, tokens: Tensor, state: NestedState | None = None, trace: Trace | None = None
    ) -> tuple[Tensor, NestedState]:
        """tokens (B, T), integers below `vocab` -> logits (B, T, vocab), and the state after the last token.

        T may be anything, and a text may be split anywhere. The levels learn also where gradients are switched off.
        Raises CourseError for tokens of a wrong shape, type, device or range, and for a state of another model.
        """
        self._check(tokens)
        if torch.is_inference_mode_enabled():
            # The inner gradient needs autograd, which tensors of inference mode do not know.
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(tokens.clone(), None if state is None else _usable(state), trace)
        state = self.init_state(tokens.shape[0]) if state is None else self.checked_state(state, tokens, inside=True)

        first_loss = None  # of the call's first token, which the last call predicted: before any weight moves
        if trace is not None and trace.wants("loss"):
            first_loss = self._loss_of_first(tokens, state)

        h, below = self._read_below(self.embedding(tokens), state.below, trace)  # (B, T, width)
        if self.clocked and tokens.shape[1]:
            recompute_with = self._parameters_above() if self.recompute else None
            inner_loop = InnerLoop(self.config, self.clocked, self._run_above, state, trace, recompute_with)
            logits = inner_loop.read(h, tokens)  # (B, T, vocab)
            after = inner_loop.state_after(below)
        else:
            # Nothing moves, or there is nothing to read. Without a moving level, `lowest` is the last block, whose
            # levels are still to come.
            logits = self.logits(h) if self.clocked else self._run_above(h, (), {}, {})[0]
            after = replace(state, below=below, position=state.position + tokens.shape[1])

        if first_loss is not None and tokens.shape[1]:
            later_losses = next_token_losses(logits[:, :-1], tokens[:, 1:])  # (B, T - 1)
            trace.add("loss", torch.cat([first_loss, later_losses], dim=1))
        return logits, self.made_from(tokens, after)

    def token_losses(self, tokens: Tensor) -> Tensor:
        """tokens (B, T + 1) -> the loss of each next token (B, T), in nats, each taken before its own update.

        The outer loop makes their mean small.
        """
        logits, _ = self(tokens[:, :-1])
        return next_token_losses(logits, tokens[:, 1:])

    def _read_below(self, h: Tensor, states: States, trace: Trace | None) -> tuple[Tensor, States]:
        """All tokens at once through what no update changes: h (B, T, width) -> the same shape, and the new states.

        These are the blocks under the lowest moving level, and the memory of that level's own block.
        """
        after = []
        for i, state in enumerate(states):
            layer, scope = self.layers[i], _scope(trace, i)
            if i == self.lowest:
                h, state = layer.mix(h, state, scope)
            else:
                h, state = layer(h, state, scope, {}, {})
            after.append(state)
        return h, tuple(after)

    def _run_above(
        self,
        h: Tensor,
        states: States,
        fast: FastWeights,
        passes: dict[str, LevelPass],
        trace: Trace | None = None,
    ) -> tuple[Tensor, States]:
        """The rest of the network, with the moving levels' weights `fast`, for tokens of one segment.

        h (B, n, width) -> logits (B, n, vocab), and the states of the blocks above the lowest moving level.
        """
        h = self.layers[self.lowest].run_levels(h, fast, passes)
        after = []
        for i, state in enumerate(states, self.lowest + 1):
            h, state = self.layers[i](h, state, _scope(trace, i), fast, passes)
            after.append(state)
        return self.logits(h), tuple(after)

    def _parameters_above(self) -> list[Tensor]:
        """What `_run_above` uses, each once. The moving levels' starts are left out: they come in as weights."""
        output = self.embedding if self.head is None else self.head
        starts = set()
        for clocked in self.clocked:
            starts |= {id(clocked.level.first), id(clocked.level.last)}
        parameters = []
        for part in (*self.layers[self.lowest :], self.norm, output):
            parameters += [w for w in part.parameters() if id(w) not in starts]
        return parameters

    @torch.no_grad()
    def _loss_of_first(self, tokens: Tensor, state: NestedState) -> Tensor:
        """The loss of the call's first token, which the last call predicted: (B, 1), not a number if there was none."""
        if not len(state.pending) or not tokens.shape[1]:
            return self.embedding.weight.new_full((tokens.shape[0], 1), torch.nan)
        states_at_start = tuple(block.at_start for block in state.above)
        logits, _ = self._run_above(state.pending.columns, states_at_start, state.fast, {})  # (B, n, vocab)
        return next_token_losses(logits[:, -1:], tokens[:, :1])


def _scope(trace: Trace | None, layer: int) -> Trace | None:
    return None if trace is None else trace.scope(f"layers.{layer}")


def _usable(state: State) -> State:
    """The state in tensors that autograd may use: copies, if some were made in inference mode."""
    if any(t.is_inference() for t in state.tensors().values()):
        return state.map(Tensor.clone)
    return state
