"""Explosion, for Titans: what do momentum, depth and forgetting do to an inner loop that may blow up?

Titans writes S <- eta S - step * k^T (k M - v), M <- retention * M + S: gradient descent with a heavy ball (Polyak
1964). Where every token has the same key, what M holds along it follows z^2 - (retention + eta - step |k|^2) z +
retention eta = 0; both roots stay within the unit circle while

    step |k|^2 < (1 + retention) (1 + eta)

so that momentum raises the bound. Not so where a key comes back only after its ball has rolled out: then one write has
moved the memory by step / (1 - eta) in all, and the bound is step |k|^2 < 2 (1 - eta), far lower. A stream lies between
the two. For chunks the same is asked of the whole chunk's map of (M, S) on itself: its spectral radius.

The view runs the course's own chunk (`memories.titans.chunk.chunked_piece`, in float64) at 36 step sizes at once.
"""

from functools import lru_cache

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.memories.common.inner_model import InnerModel, Norm
from nl_course.memories.titans.chunk import ChunkMasks, Gates, chunk_masks, chunked_piece
from nl_course.views import explosion
from nl_course.views.explosion import BLOWN, WIDTH, Explosion, stream
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import pure

TOKENS = 128
STEPS = (*(i / 50 for i in range(1, 10)), *(i / 20 for i in range(4, 20)), *(i / 10 for i in range(10, 31, 2)))
EXPANSION = 1
CURES = ("none", "keys of length 1", "step divided by the chunk", "retention 0.9", "layer norm in the memory")
KEPT = 0.9  # by the cure that forgets


def gates_of(steps: Tensor, momentum: float, cure: str, chunk: int) -> Gates:
    """The gates of one chunk, (rows, 1, chunk): a row for each step."""
    if not 0 <= momentum < 1:
        raise CourseError(f"momentum must be at least 0 and less than 1, not {momentum}.")
    one = torch.ones(len(steps), 1, chunk, dtype=torch.float64)
    theta = steps[:, None, None] * one / (chunk if check_choice("cure", cure, CURES) == CURES[2] else 1)
    keep = (KEPT * one).log() if cure == CURES[3] else None
    return Gates(theta, (momentum * one).log() if momentum else None, keep)


def start_of(depth: int) -> dict[str, Tensor]:
    """Random weights with variance 1 / inputs, (1, 1, in, out), the same each time."""
    generator = torch.Generator().manual_seed(depth)
    shapes = InnerModel(depth, EXPANSION, bias=False).shapes(WIDTH)
    return {
        name: torch.randn(1, 1, *shape, generator=generator, dtype=torch.float64) * shape[0] ** -0.5
        for name, shape in shapes.items()
    }


@lru_cache(maxsize=64)
@torch.no_grad()
def norms(
    steps: tuple[float, ...], similarity: float, length: float, momentum: float, depth: int, chunk: int, cure: str
) -> np.ndarray:
    """The norm of all weights after each chunk, from before the first: (len(steps), chunks + 1)."""
    check_int("depth", depth, 1)
    check_int("chunk", chunk, 1)
    text, inside, rows = stream(similarity), cure == CURES[4], len(steps)
    gates = gates_of(torch.tensor(steps, dtype=torch.float64), momentum, cure, chunk)
    inner = InnerModel(depth, EXPANSION, "silu", bias=False, norm=inside, residual=inside)
    one = torch.ones(1, 1, WIDTH, dtype=torch.float64)
    memory = {name: w.expand(rows, -1, -1, -1) for name, w in start_of(depth).items()}
    past = {name: torch.zeros_like(w) for name, w in memory.items()} if momentum else {}
    masks, found = chunk_masks(gates), [_size(memory)]
    keys = text.keys * (1.0 if cure == CURES[1] else length)
    for first in range(0, TOKENS, chunk):
        k, v = (u[first : first + chunk].expand(rows, 1, -1, -1) for u in (keys, text.values))
        _, memory, past = chunked_piece(inner, Norm(one, 0 * one), memory, past, memory, k, k, v, masks)
        found.append(_size(memory))
    return torch.stack(found, dim=1).numpy()


def _size(weights: dict[str, Tensor]) -> Tensor:
    """The length of all weights together, (rows,)."""
    return sum(w.square().sum((1, 2, 3)) for w in weights.values()).sqrt()


def chunk_map(keys: Tensor, masks: ChunkMasks) -> Tensor:
    """What a chunk with `keys` (c, f) does to (M, S) of a linear memory, as a matrix (rows, 2 f, 2 f) on their columns;
    values only add a constant."""
    rows, eye = masks.G.shape[0], torch.eye(keys.shape[1], dtype=keys.dtype)
    M = masks.beta[:, 0, -1, :, None] * eye - keys.T @ (masks.G[:, 0, -1, :, None] * keys)
    if not masks.phi.any():  # no momentum
        return M
    to_memory = masks.phi[:, 0, -1, :, None] * eye
    S = torch.cat([-keys.T @ (masks.P_last[:, 0] * keys), masks.eta_product[:, 0] * eye.expand(rows, -1, -1)], dim=2)
    return torch.cat([torch.cat([M, to_memory], dim=2), S], dim=1)


def radius(keys: Tensor, steps: list[float], momentum: float, cure: str) -> np.ndarray:
    """The spectral radius of `chunk_map`, for each step: above 1, the same chunk read again and again blows up."""
    gates = gates_of(torch.tensor(steps, dtype=torch.float64), momentum, cure, len(keys))
    return torch.linalg.eigvals(chunk_map(keys, chunk_masks(gates))).abs().amax(dim=-1).numpy()


def bound(keys: Tensor, momentum: float, cure: str) -> float:
    """The step at which `radius` passes 1, by halving; for one token (1 + retention)(1 + momentum) / |k|^2."""
    below, above = 0.0, 400.0
    for _ in range(16):
        grid = np.linspace(below, above, 9)[1:-1]
        over = np.flatnonzero(radius(keys, list(grid), momentum, cure) > 1 + 1e-9)
        edges = np.concatenate([[below], grid, [above]])
        place = over[0] + 1 if len(over) else len(grid) + 1
        below, above = edges[place - 1], edges[place]
    return float(below)


def steepest(keys: Tensor, chunk: int) -> Tensor:
    """The chunk whose keys have the largest eigenvalue of the sum of k^T k, in coordinates of their own span (c, rank):
    what stands at right angles to all of them is never written, and would only add roots of 1."""
    U, size, _ = torch.linalg.svd(max(keys.split(chunk), key=lambda part: float(torch.linalg.matrix_norm(part, 2))))
    rank = int((size > 1e-9 * size[0]).sum())
    return U[:, :rank] * size[:rank]


def compute(settings: dict) -> dict:
    """settings: step, momentum, depth, cure, length and similarity (of the keys), mini_batch (the chunk)."""
    cure, chunk = check_choice("cure", settings["cure"], CURES), settings["mini_batch"]
    momentum, depth = settings["momentum"], settings["depth"]
    if settings["step"] not in STEPS:
        raise CourseError(f"step must be one of {', '.join(f'{step:g}' for step in STEPS)}, not {settings['step']:g}.")
    names = {name: settings[name] for name in ("similarity", "length", "momentum", "depth")}
    found = norms(STEPS, **names, chunk=chunk, cure=cure)
    final = np.nan_to_num(found[:, -1], nan=np.inf)
    blown = np.flatnonzero(final > BLOWN)
    linear = depth == 1 and cure != CURES[4]
    keys = steepest(stream(settings["similarity"]).keys * (1.0 if cure == CURES[1] else settings["length"]), chunk)
    curvature = float(torch.linalg.matrix_norm(keys, 2) ** 2) / (chunk if cure == CURES[2] else 1)
    return {
        **settings,
        "tokens": np.minimum(np.arange(found.shape[1]) * chunk, TOKENS),
        "norm": found[STEPS.index(settings["step"])],
        "steps": STEPS,
        "final": final,
        "edge": float(STEPS[blown[0]]) if len(blown) else np.nan,
        "bound": bound(keys, momentum, cure) if linear else np.nan,
        "rare": 2 * (1 - momentum) / curvature if linear and momentum else np.nan,
        "radius": float(radius(keys, [settings["step"]], momentum, cure)[0]) if linear else np.nan,
        "style": "titans",
    }


def read_out(arrays: dict) -> str:
    """The spectral radius, both bounds, the measured edge, and what became of the memory."""
    last = arrays["norm"][-1]
    size = f"{last:.3g}" if np.isfinite(last) else "no number any more"
    text = (
        f"Step {arrays['step']:g}, momentum {arrays['momentum']:g}, {arrays['depth']} layer(s): after {TOKENS} tokens "
        f"the memory's norm is {size} (at first {arrays['norm'][0]:.2f})."
    )
    if np.isfinite(arrays["radius"]):
        text += (
            f" Read again and again, the steepest chunk multiplies memory and momentum by up to {arrays['radius']:.2f} "
            f"(its spectral radius); this passes 1 at a step of {arrays['bound']:.3g}."
        )
        if np.isfinite(arrays["rare"]):
            text += f" For a key that comes back after its momentum has run out the bound is {arrays['rare']:.3g}."
    else:
        text += " No bound is known beforehand: what a layer writes depends on the others, or on the norm inside."
    edge = f" Measured, it blows up from {arrays['edge']:.2f} on." if np.isfinite(arrays["edge"]) else ""
    return text + (edge or f" Measured, no step up to {STEPS[-1]:g} blows it up.")


ANSWERS = ("at a larger step", "at about the same step", "at a smaller step")


def outcome(arrays: dict) -> str | None:
    """Where it blows up with momentum 0.9 and keys of all directions, beside none; None until that was tried."""
    if (arrays["momentum"], arrays["similarity"], arrays["cure"]) != (0.9, 0.0, CURES[0]):
        return None
    plain = compute({**{name: arrays[name] for name in SETTINGS}, "momentum": 0.0})
    ratio = (arrays["edge"] if np.isfinite(arrays["edge"]) else np.inf) / plain["edge"]
    if ratio > 1.2:
        return ANSWERS[0]
    return ANSWERS[1] if ratio > 0.8 else ANSWERS[2]


SETTINGS = ("step", "momentum", "depth", "cure", "length", "similarity", "mini_batch")


class TitansExplosion(Explosion):
    """Titans' inner loop with a step that may be too large: momentum, depth, and the cures."""

    name = "explosion-titans"
    title = "What do momentum and depth do to a step that is too large?"
    prediction = Prediction(
        "Where every token has the same key, momentum lets the step be larger. Take keys of all directions instead, "
        "one token at a time: where does the memory blow up with momentum 0.9, beside none?",
        outcome,
        options=ANSWERS,
        until="Set momentum to 0.9, with a similarity of 0 and no cure.",
        why="A key that comes back after its momentum has run out meets a write of 1/(1 - momentum) times the "
        "step: ten times here.",
    )
    moves = ("step", "momentum")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: step, momentum, cure."""
        return {
            "step": W.SelectionSlider(
                options=[(f"{step:g}", step) for step in STEPS], value=0.4, description="Step of each write"
            ),
            "momentum": W.FloatSlider(value=0.5, min=0, max=0.95, step=0.05, description="Momentum"),
            "cure": W.Dropdown(options=CURES, value=CURES[0], description="Cure"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: depth, length, similarity, mini batch."""
        return {
            "depth": W.IntSlider(value=1, min=1, max=3, description="Layers of the memory"),
            "length": W.FloatSlider(value=2, min=0.5, max=3, step=0.1, description="Length of the keys"),
            "similarity": W.FloatSlider(value=0.9, min=0, max=1, step=0.05, description="Similarity of the keys"),
            "mini_batch": W.Dropdown(options=[1, 4, 16, 64], value=1, description="Chunk (tokens)"),
        }

    compute, draw, read_out = pure(compute, explosion.draw, read_out)
