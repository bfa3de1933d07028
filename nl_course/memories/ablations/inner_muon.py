"""Muon inside: a memory that writes a chunk by the orthogonalized sum of the chunk's gradients.

Titans and TTT take a step of gradient descent (SGD) per token, all gradients of a chunk at its anchor M_a. Here the sum
of these steps so far, U_t, goes through Newton-Schulz (NS, nl_course/newton_schulz.py) before it is written, so that
every direction in it counts the same. LaCT does so (Zhang et al. 2025, "Test-Time Training Done Right", arXiv
2505.23884; its abstract and its code were read, github.com/a1600012888/LaCT, lact_llm/lact_model/ttt_operation.py).

    u_t = grad l(M_a; k_t, v_t)
    U_t = (1 - alpha_t) U_{t-1} + theta_t u_t              from 0 at the chunk's first token
    M_t = kept_t M_a - U_t                                 inner "sgd", kept_t the product of the chunk's retentions
    M_t = kept_t M_a - size_t NS(U_t)                      inner "muon", size_t the sum of the steps in U_t

With "sgd" this is Titans without momentum, to the last digit but a few. NS forgets how long U_t was, so the gates say
it: size_t is the length that U_t would have if all gradients of the chunk were one and the same unit matrix.

What is LaCT's and not here: its tokens read the weights that the chunk began with, and a window of attention sees the
chunk itself; its fast weights are a SwiGLU network, which go back to their first length after each write; its loss is
the inner product; it has momentum, one per chunk. Here a token reads what its chunk has written so far, as everywhere
in this course. So a chunk's size changes the anchor and nothing else.

Axes: b batch, h heads, t tokens of a piece, j those of them that wrote, f head width, `in` and `out` the widths of a
layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice
from nl_course.memories.ablations.inner_steps import read_each
from nl_course.memories.base import State
from nl_course.memories.common.inner_model import InnerModel, Norm, grad_loss
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.chunk import Gates, chunk_masks
from nl_course.memories.titans.lmm import Titans, TitansConfig
from nl_course.memories.titans.neural import NeuralMemory
from nl_course.memories.trace import Trace
from nl_course.newton_schulz import newton_schulz

INNER_OPTIMIZERS = ("sgd", "muon")


@dataclass(frozen=True)
class InnerMuonConfig(TitansConfig):
    """A neural memory without momentum, written by `inner_optimizer`; see `NeuralConfig`. Raises CourseError for
    momentum, and for biases: they are rows, which Newton-Schulz would only make 1 long."""

    momentum: bool = False
    inner_optimizer: str = "muon"

    def __post_init__(self):
        super().__post_init__()
        check_choice("inner_optimizer", self.inner_optimizer, INNER_OPTIMIZERS)
        if self.momentum or self.bias:
            raise CourseError("a memory that is written by whole chunks has no momentum and no biases here.")


@dataclass(frozen=True)
class OpenChunk(State):
    """The network as it stands (`memory`, M_t), what the open chunk began with (`anchor`, M_a) and its steps so far
    (`grad_accum`, U_t), each by name (b, h, in, out); `size` and `kept` (b, h); tokens written (`position`)."""

    memory: dict[str, Tensor]
    anchor: dict[str, Tensor]
    grad_accum: dict[str, Tensor]
    size: Tensor
    kept: Tensor
    position: int


def orthogonal(U: Weights) -> Weights:
    """Every matrix of U with its singular values near 1; five steps of Newton-Schulz, as LaCT takes."""
    return U.map(lambda matrix: newton_schulz(matrix, steps=5))


def reference(
    f: InnerModel,
    norm: Norm | None,
    state: OpenChunk,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    theta: Tensor,
    chunk: int,
    muon: bool,
    create_graph: bool = True,
) -> tuple[Tensor, OpenChunk]:
    """Writes and reads every token: y (b, h, t, f) and the state after the last. q, k, v (b, h, t, f); the gates alpha
    (forgetting) and theta (step) (b, h, t). This is the definition; `chunked` must equal it."""
    M, M_a, U = Weights(state.memory), Weights(state.anchor), Weights(state.grad_accum)
    size, kept = (x[..., None, None] for x in (state.size, state.kept))  # (b, h, 1, 1)
    y = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = (x[:, :, t : t + 1] for x in (q, k, v))  # (b, h, 1, f)
        keep_t, theta_t = 1 - alpha[:, :, t, None, None], theta[:, :, t, None, None]  # (b, h, 1, 1)
        if (state.position + t) % chunk == 0:  # a new chunk: all its gradients are taken at what stands now
            M_a, U, size, kept = M, 0.0 * U, torch.zeros_like(size), torch.ones_like(kept)
        u = grad_loss(f.inner_loss, M_a, k_t, v_t, norm, create_graph=create_graph)
        U = keep_t * U + theta_t * u
        size = keep_t * size + theta_t.abs()  # a length: a step that climbs has its sign in U
        kept = keep_t * kept
        M = kept * M_a - (size * orthogonal(U) if muon else U)
        y.append(f.read(M, q_t, norm))
    position = state.position + q.shape[2]
    return torch.cat(y, dim=2), OpenChunk(M, M_a, U, size[..., 0, 0], kept[..., 0, 0], position)


def chunked_piece(
    f: InnerModel,
    norm: Norm | None,
    state: OpenChunk,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    muon: bool,
    create_graph: bool = True,
) -> tuple[Tensor, OpenChunk]:
    """The same for tokens of one chunk, whose gradients are known at once: one matrix per token and layer, the
    orthogonalized ones made in one call."""
    M_a, tokens = Weights(state.anchor), q.shape[2]
    masks = chunk_masks(gates)  # G[t, j]: the share with which step j stands in U_t; beta_t: what is kept of before
    size = masks.beta[..., 0] * state.size[..., None] + masks.G.abs().sum(-1)  # (b, h, t)
    kept = masks.beta[..., 0] * state.kept[..., None]  # (b, h, t)
    U = Weights()
    for i, (a, e) in enumerate(f.key_side(M_a, k, v, norm), 1):  # a (b, h, j, in), e (b, h, j, out)
        if not create_graph:
            a, e = a.detach(), e.detach()
        u = a[..., :, None] * e[..., None, :]  # (b, h, j, in, out)
        summed = (masks.G @ u.flatten(-2)).unflatten(-1, u.shape[-2:])  # (b, h, t, in, out)
        U[f"W{i}"] = masks.beta[..., None] * state.grad_accum[f"W{i}"][:, :, None] + summed
    write = orthogonal(U).map(lambda O: size[..., None, None] * O) if muon else U
    M = M_a.map(lambda W: kept[..., None, None] * W[:, :, None]) - write  # (b, h, t, in, out) each
    own = M.map(lambda W: W.transpose(1, 2).flatten(0, 1))  # (b t, h, in, out): every token its own row
    y = read_each(f, norm, own, q)  # (b, h, t, f)
    M, U = M.map(lambda W: W[:, :, -1]), U.map(lambda W: W[:, :, -1])
    return y, OpenChunk(M, M_a, U, size[..., -1], kept[..., -1], state.position + tokens)


class InnerMuonMemory(NeuralMemory):
    """`NeuralMemory` that is written by whole chunks; the same parameters. Two paths: "reference", and "chunked"
    ("auto")."""

    def init_state(self, batch_size: int) -> OpenChunk:
        """M_0 and an empty chunk."""
        M = Weights(super().init_state(batch_size).memory)
        size = torch.zeros(batch_size, self.config.heads, dtype=self.accum_dtype, device=self.step.weight.device)
        return OpenChunk(M, M, M.map(torch.zeros_like), size, torch.ones_like(size), position=0)

    @property
    def state_numbers(self) -> int:
        """The weights, the anchor and the open chunk's steps, and two numbers per head."""
        return 3 * self.weight_numbers + 2 * self.config.heads

    def learn(self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: OpenChunk) -> tuple[Tensor, OpenChunk]:
        """Writes and reads every token of q, k, v (b, h, t, f): y (b, h, t, f), token t's with the weights right after
        its write, and the new state."""
        chunk, muon = self.config.chunk, self.config.inner_optimizer == "muon"
        create_graph = self.config.stop_gradient == "none"
        if self.path == "reference":
            alpha, _, theta = gates.plain()
            y, state = reference(self.inner, self.norm, state, q, k, v, alpha, theta, chunk, muon, create_graph)
            return y, self._begun(state)
        outputs = []
        start = 0
        while start < q.shape[2]:
            # One piece: up to the end of the open chunk, or of the text.
            stop = min(q.shape[2], start + chunk - state.position % chunk)
            rows = (x[:, :, start:stop] for x in (q, k, v))  # (b, h, t, f)
            own = gates.time_slice(start, stop)
            y, state = chunked_piece(self.inner, self.norm, state, *rows, own, muon, create_graph)
            state = self._begun(state)
            outputs.append(y)
            start = stop
        return torch.cat(outputs, dim=2), state

    def _begun(self, state: OpenChunk) -> OpenChunk:
        """Where a chunk ends, the next one as it begins, so that a text may be cut there like anywhere."""
        if state.position % self.config.chunk:
            return state
        M = Weights(state.memory)
        zero = torch.zeros_like(state.size)
        return OpenChunk(M, M, M.map(torch.zeros_like), zero, torch.ones_like(zero), state.position)

    def explain(
        self, trace: Trace, state: OpenChunk, persistent: int, q: Tensor, k: Tensor, v: Tensor, gates: Gates
    ) -> None:
        """Adds `k`, `v` and `step_size`, (b, t, h, ...): what a token decides by itself."""
        for name, value in {"k": k, "v": v, "step_size": gates.step}.items():
            trace.add(name, value.transpose(1, 2))


class InnerMuon(Titans):
    """`Titans` with a chunk written by SGD or by Muon, from an `InnerMuonConfig`; the same parameters as without
    momentum."""

    neural_memory = InnerMuonMemory
