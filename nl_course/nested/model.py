"""A language model some of whose levels learn, as they read, from the model's own next-token loss.

    model = NestedLanguageModel(preset("hope-attention-micro"))
    logits, state = model(tokens)                  training, evaluation and generation are this one program

Each block is a memory and then a continuum memory system (levels.py). A level of period C keeps its weights for C
tokens, then takes one step down the summed loss of those tokens, for each row of the batch by itself. The step that
closes a chunk is made when token C + 1 arrives, the chunk's last target, and before that token is read. What runs below
the lowest moving level does not depend on any of this and reads all tokens at once; what lies above advances from
boundary to boundary (reader.py). Under autograd the outer gradient passes through all updates, exactly, to the levels'
starts, their rates and everything else; `truncate` and `first_order` in the config are named ways to pay less.

Behrouz et al. 2025, "Nested Learning" (arXiv 2512.24695), sections 7 and 8. Where the paper is silent: the loss of a
segment is differentiated with everything carried into it constant; a level's start is learnt by training alone.
Whatever stands above a moving level is differentiated twice: attention takes its "reference" path there.
"""

from dataclasses import replace

import torch
from torch import Tensor

from nl_course.memories import State, Trace
from nl_course.memories.attention.cache import TokenCache
from nl_course.model import LanguageModel
from nl_course.nested.clocks import needs_accumulator, open_since
from nl_course.nested.config import NestedConfig
from nl_course.nested.levels import NestedBlock, Notes, path_under_a_level
from nl_course.nested.reader import Reader, States
from nl_course.nested.state import NestedState, OpenState, is_a_cache
from nl_course.nested.steps import Weights, clocked_levels, next_token_losses


class NestedLanguageModel(LanguageModel):
    """Tokens in, next-token logits out, as `LanguageModel`; its state holds the moving levels' weights, a set a row.

    Traces, (B, T) each: `loss`, what the model had to pay for each token when it arrived (not a number for the first
    token of a text); for each moving level `layers.i.levels.j.` `changed`, `update_norm`, `gradient_norm`, `drift`; and
    the memories' own. With `checkpoint`, which may be set at any time, training keeps of a segment only what went into
    it, and computes it a second time for its gradient; not where a trace is wanted.
    """

    def __init__(self, config: NestedConfig, path: str = "auto", checkpoint: bool = False):
        super().__init__(config, path)
        self.checkpoint = checkpoint
        self.clocked = clocked_levels(config, self.layers)
        self.chunks = [level.chunk for level in self.clocked]

    def _blocks(self, config: NestedConfig, path: str) -> list[NestedBlock]:
        moving = [i for i, levels in enumerate(config.levels) if any(level.chunk for level in levels)]
        self.lowest = min(moving, default=config.layers - 1)  # the first block with a level that moves
        above = path_under_a_level(config.memory, path) if moving and self.lowest < config.layers - 1 else path
        paths = [path if i <= self.lowest else above for i in range(config.layers)]
        return [NestedBlock(config, levels, i, paths[i]) for i, levels in enumerate(config.levels)]

    # -- state ---------------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> NestedState:
        """The start of a text: empty memories, and every moving level at its learnt start."""
        states = [layer.init_state(batch_size) for layer in self.layers]
        below, above = tuple(states[: self.lowest + 1]), states[self.lowest + 1 :]
        fast = {name: level.start(batch_size) for name, level, _ in self.clocked}
        gathered = {
            clocked.name: tuple(torch.zeros_like(w) for w in fast[clocked.name])
            for clocked in self.clocked
            if needs_accumulator(clocked.chunk, self.chunks)
        }
        table = self.embedding.weight
        pending = TokenCache.of(table.new_empty(batch_size, 0, table.shape[1]))
        targets = torch.empty(batch_size, 0, dtype=torch.int64, device=table.device)
        return NestedState(below, tuple(OpenState(s, s, 0) for s in above), fast, gathered, pending, targets, 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The formula for `state.nbytes` after `tokens` tokens. With n tokens in the open segment, for each row:

        every moving level's matrices, once more for levels slower than the segments (their accumulators); n inputs of
        the lowest moving level and n - 1 targets (8 bytes each); the memories, and those above the lowest moving level
        a second time as they were n tokens ago (of a cache of tokens only what was added since)."""
        item, open_tokens = self.embedding.weight.element_size(), tokens - open_since(tokens, self.chunks)
        below, above = self.layers[: self.lowest + 1], self.layers[self.lowest + 1 :]
        total = sum(layer.state_bytes(tokens, batch_size) for layer in below)
        for layer in above:
            added = open_tokens if is_a_cache(layer.memory.init_state(1)) else tokens
            total += layer.memory.state_bytes(tokens - open_tokens, batch_size)
            total += layer.memory.state_bytes(added, batch_size) + 2 * layer.tail_bytes(batch_size)
        for _, level, _ in self.clocked:
            copies = 1 + needs_accumulator(level.config.chunk, self.chunks)
            total += batch_size * copies * level.config.elements(self.config.width) * item
        if self.clocked:
            total += batch_size * (open_tokens * self.config.width * item + max(open_tokens - 1, 0) * 8)
        return total

    # -- reading ---------------------------------------------------------------------------------------------------
    def forward(
        self, tokens: Tensor, state: NestedState | None = None, trace: Trace | None = None
    ) -> tuple[Tensor, NestedState]:
        """tokens (B, T) of integers below `vocab` -> logits (B, T, vocab), and the state after the last token; any T,
        in any split. Also where gradients are switched off the levels learn."""
        self._check(tokens)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(tokens.clone(), None if state is None else _usable(state), trace)
        state = self.init_state(tokens.shape[0]) if state is None else state
        before = None if trace is None or not trace.wants("loss") else self._loss_of_first(tokens, state)
        h, below = self._below(self.embedding(tokens), state.below, trace)
        if self.clocked and tokens.shape[1]:
            again = self._parameters_above() if self.checkpoint else None
            reader = Reader(self.config, self.clocked, self._above, state, trace, again)
            logits, after = reader.read(h, tokens), reader.after(below)
        else:
            logits, _ = self._above(h, (), {}, {}) if not self.clocked else (self.logits(h), None)
            after = replace(state, below=below, position=state.position + tokens.shape[1])
        if before is not None and tokens.shape[1]:
            trace.add("loss", torch.cat([before, next_token_losses(logits[:, :-1], tokens[:, 1:])], dim=1))
        return logits, after

    def token_losses(self, tokens: Tensor) -> Tensor:
        """tokens (B, T + 1) -> the loss of each next token (B, T), in nats, each taken before its own update; their
        mean is what the outer loop makes small."""
        logits, _ = self(tokens[:, :-1])
        return next_token_losses(logits, tokens[:, 1:])

    def _below(self, h: Tensor, states: States, trace: Trace | None) -> tuple[Tensor, States]:
        """All tokens through the blocks under the lowest moving level, that block's own memory included."""
        after = []
        for i, before in enumerate(states):
            layer, scope = self.layers[i], _scope(trace, i)
            part = layer.mix(h, before, scope) if i == self.lowest else layer(h, before, scope, {}, {})
            h, after = part[0], [*after, part[1]]
        return h, tuple(after)

    def _above(
        self, h: Tensor, states: States, fast: Weights, notes: dict[str, Notes], trace: Trace | None = None
    ) -> tuple[Tensor, States]:
        """What follows: h (B, n, width) -> logits (B, n, vocab), and the states of the blocks above the lowest."""
        h, after = self.layers[self.lowest].learn(h, fast, notes), []
        for i, before in enumerate(states, self.lowest + 1):
            h, state = self.layers[i](h, before, _scope(trace, i), fast, notes)
            after.append(state)
        return self.logits(h), tuple(after)

    def _parameters_above(self) -> list[Tensor]:
        """What `_above` uses, each once, the moving levels' starts aside: they come in as weights."""
        output = self.embedding if self.head is None else self.head
        parts = [*self.layers[self.lowest :], self.norm, output]
        starts = {id(w) for _, level, _ in self.clocked for w in (level.first, level.last)}
        return [w for part in parts for w in part.parameters() if id(w) not in starts]

    @torch.no_grad()
    def _loss_of_first(self, tokens: Tensor, state: NestedState) -> Tensor:
        """The loss of the call's first token, which the last call predicted: (B, 1), not a number if there was none."""
        if not len(state.pending) or not tokens.shape[1]:
            return self.embedding.weight.new_full((tokens.shape[0], 1), torch.nan)
        logits, _ = self._above(state.pending.columns, tuple(block.then for block in state.above), state.fast, {})
        return next_token_losses(logits[:, -1:], tokens[:, :1])


def _scope(trace: Trace | None, layer: int) -> Trace | None:
    return None if trace is None else trace.scope(f"layers.{layer}")


def _usable(state: State) -> State:
    """The state, with tensors that autograd may use if some were made in inference mode."""
    if any(t.is_inference() for t in state.tensors().values()):
        return state.map(Tensor.clone)
    return state
