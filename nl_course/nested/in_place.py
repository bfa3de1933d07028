"""In-Place TTT: one matrix of a finished model goes on learning while it reads.

The matrix is the output matrix of one block's MLP, W (hidden, d): no part is added to the network. The text is cut into
chunks. Each chunk is read, and so scored, with W as it stood when the chunk began; then W is written:

    z_t = silu(x_t W_gate) * (x_t W_up)          what the matrix is given, of token t
    y_t = z_t W                                  apply
    W   = W + rate * sum_t z_t^T v_t             update, at the chunk's end
    v   = conv(e) W_target                       e: the tokens' embeddings; conv looks at its chunk alone

Feng et al. 2026, "In-Place Test-Time Training", arXiv 2604.06169, and their code (ByteDance-Seed/In-Place-TTT, read in
Nov 2026). There conv has five taps per feature, two of them on tokens that follow; conv and W_target are learned in a
continued pretraining of the whole model. Here they begin as what needs no training:

    target "next"    v_t = e_{t+1}, the next token's embedding (W_target = 1). The chunk's last token has none.
    target "error"   v_t = e_{t+1} less the embedding that the model expected there, sum_u p_t(u) e_u. With tied
                     embeddings and no norm behind the last block, z_t^T v_t is the loss's own gradient, downhill.

With any taps and target matrix the update is that of their inference code (compared once, to 5e-14). "next" writes as
Hebb's rule does, and "error" as the delta rule. `clip` bounds the length of a chunk's change of W, as
their inference does. A rate of 0 is the plain model. Each text has a W of its own.

Axes: b batch, t tokens, f hidden width of the MLP, d width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories import State
from nl_course.model import LanguageModel, ModelState

TARGETS = ("next", "error")
TAPS = 5  # of conv: two tokens before, the token itself, two after


@dataclass(frozen=True)
class InPlaceState(State):
    """The model's state; each text's matrix `fast` (b, f, d); of the open chunk what the matrix was given (`given`, b,
    s, f) and what it shall say (`wanted`, b, s, d: embeddings; for "error" also what was expected, b, s, 2 d)."""

    model: ModelState
    fast: Tensor
    given: Tensor
    wanted: Tensor


class InPlace(nn.Module):
    """A trained `model` whose block number `layer` writes into its MLP's output matrix after every `chunk` tokens.

    `taps` (5, d) and `target_matrix` (d, d) are parameters, since the paper trains them; they begin at the target
    without training. The model's own weights are used as they are, and never changed."""

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        chunk: int,
        rate: float,
        target: str = "next",
        clip: float | None = None,
    ):
        super().__init__()
        if check_int("layer", layer, 0) >= len(model.layers):
            raise CourseError(f"layer ({layer}) must be below {len(model.layers)}, the model's number of layers.")
        self.model = model
        self.layer = layer
        self.chunk = check_int("chunk", chunk, 1)
        self.rate = check_min("rate", rate, 0)
        self.target = check_choice("target", target, TARGETS)
        self.clip = None if clip is None else check_min("clip", clip, 0)
        width = model.config.width
        taps = torch.zeros(TAPS, width)
        taps[TAPS // 2 + 1] = 1  # the token that follows
        self.taps = nn.Parameter(taps.to(model.embedding.weight))
        self.target_matrix = nn.Parameter(torch.eye(width).to(model.embedding.weight))

    def init_state(self, batch_size: int) -> InPlaceState:
        """The model's start, and in every text the matrix as training left it."""
        fast = self.model.layers[self.layer].mlp.down.weight.mT  # (f, d): rows are vectors
        given = fast.new_zeros(batch_size, 0, fast.shape[0])
        wanted = fast.new_zeros(batch_size, 0, fast.shape[1] * (2 if self.target == "error" else 1))
        return InPlaceState(self.model.init_state(batch_size), fast.expand(batch_size, -1, -1), given, wanted)

    def forward(self, tokens: Tensor, state: InPlaceState | None = None) -> tuple[Tensor, InPlaceState]:
        """tokens (b, t) -> logits (b, t, vocab), each with the matrix from before its chunk; and the state. Raises
        CourseError for tokens that the model refuses."""
        self.model._check(tokens)
        state = self.init_state(len(tokens)) if state is None else state
        outputs = []
        while tokens.shape[1] or not outputs:
            room = self.chunk - state.given.shape[1]
            logits, state = self.read(tokens[:, :room], state)
            outputs.append(logits)
            tokens = tokens[:, room:]
            if state.given.shape[1] == self.chunk:
                state = self.write(state)
        return torch.cat(outputs, dim=1), state

    def read(self, tokens: Tensor, state: InPlaceState) -> tuple[Tensor, InPlaceState]:
        """A piece of one chunk, (b, t): its logits, and the state with what there is to be written."""
        states = []
        h = embedded = self.model.embedding(tokens)  # (b, t, d)
        for number, (block, before) in enumerate(zip(self.model.layers, state.model.layers, strict=True)):
            h, after = block.mix(h, before, None)
            states.append(after)
            x = block.mlp_norm(h)
            if number == self.layer:
                z = silu(block.mlp.gate(x)) * block.mlp.up(x)  # (b, t, f)
                h = h + self.apply_fast(z, state.fast)
            else:
                h = h + block.mlp(x)
        logits = self.model.logits(h)
        wanted = embedded
        if self.target == "error":
            expected = logits.softmax(dim=-1) @ self.model.embedding.weight  # (b, t, d)
            wanted = torch.cat([embedded, expected], dim=-1)
        given = torch.cat([state.given, z], dim=1)
        wanted = torch.cat([state.wanted, wanted], dim=1)
        model_state = replace(state.model, layers=tuple(states))
        return logits, replace(state, model=model_state, given=given, wanted=wanted)

    def apply_fast(self, z: Tensor, fast: Tensor) -> Tensor:
        """z W (b, t, d), by the product that the plain MLP makes while nothing is written: a rate of 0 then gives its
        very digits."""
        if self.rate == 0:
            return self.model.layers[self.layer].mlp.down(z)
        return z @ fast

    def write(self, state: InPlaceState) -> InPlaceState:
        """The matrix after a whole chunk, and an empty one."""
        change = self.rate * state.given.mT @ self.targets(state.wanted)  # (b, f, d)
        if self.clip is not None:
            length = change.norm(dim=(-2, -1), keepdim=True)  # (b, 1, 1)
            change = change * (self.clip / length.clamp_min(1e-30)).clamp_max(1)
        nothing = dict(given=state.given[:, :0], wanted=state.wanted[:, :0])
        return replace(state, fast=state.fast + change, **nothing)

    def targets(self, wanted: Tensor) -> Tensor:
        """v (b, c, d) of a whole chunk. No tap reaches beyond it: there stand zeros."""
        width = self.taps.shape[1]
        half = TAPS // 2
        padded = pad(wanted[..., :width], (0, 0, half, half))  # (b, c + 4, d)
        v = (padded.unfold(1, TAPS, 1) * self.taps.T).sum(-1)  # (b, c, d)
        if self.target == "error":
            expected = wanted[..., width:].clone()
            expected[:, -1] = 0  # as the last token's target is
            v = v - expected
        return v @ self.target_matrix
