"""Exercises of notebook 03, continued: one gate for erasing and one for writing (3.6)."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure, right_shape


def _two_gates_solution(S, k, v, alpha, erase, write):
    """alpha S + k^T (write v - (erase k) alpha S), (d_k, d_v)."""
    S = alpha[:, None] * S
    old = (erase * k) @ S
    return S + torch.outer(k, write * v - old)


def _as_written(S, k, v, alpha, erase, write):
    """What the checks compare with, as the paper has it (arXiv 2605.22791), with rows for vectors."""
    eye = torch.eye(len(k), dtype=S.dtype)
    erased = eye - torch.outer(k, erase * k)
    return erased @ torch.diag(alpha) @ S + torch.outer(k, write * v)


def _one_write(rng: Rng) -> tuple:
    """A memory (d_k, d_v), a key, a value, and three gates in (0, 1): alpha and erase (d_k,), write (d_v,)."""
    d_k, d_v = rng.whole(2, 6), rng.whole(2, 5)
    alpha, erase, write = (rng.normal(size).sigmoid() for size in (d_k, d_k, d_v))
    return rng.normal(d_k, d_v), rng.normal(d_k), rng.normal(d_v), alpha, erase, write


@holds("with all gates equal to beta it is one write of KDA", hint=2)
def _collapses(answer, rng):
    """Catches an old answer that is read before the memory has faded."""
    S, k, v, alpha, *_ = _one_write(rng)
    beta = rng.number(0.1, 0.9)
    erase, write = torch.full_like(k, beta), torch.full_like(v, beta)
    faded = alpha[:, None] * S
    compare(faded + beta * torch.outer(k, v - k @ faded), answer(S, k, v, alpha, erase, write))


@holds("with the erase gate at 0 nothing old is looked up", hint=2)
def _no_erase(answer, rng):
    """Catches an erase that depends on the write gate, or on no gate."""
    S, k, v, alpha, _, write = _one_write(rng)
    expected = alpha[:, None] * S + torch.outer(k, write * v)
    compare(expected, answer(S, k, v, alpha, torch.zeros_like(k), write))


@holds("with the write gate at 0 it erases, and writes nothing", hint=3)
def _no_write(answer, rng):
    """Catches a write gate that also scales the erase."""
    S, k, v, alpha, erase, _ = _one_write(rng)
    nothing = torch.zeros_like(v)
    compare(answer(S, k, nothing, alpha, erase, torch.ones_like(v)), answer(S, k, v, alpha, erase, nothing))
    compare(_as_written(S, k, nothing, alpha, erase, nothing), answer(S, k, v, alpha, erase, nothing))


def _not_faded(S, k, v, alpha, erase, write):
    """Looks up the old answer in the memory before it has faded."""
    return alpha[:, None] * S + torch.outer(k, write * v - (erase * k) @ S)


def _written_at_the_erased_key(S, k, v, alpha, erase, write):
    """Puts the erase gate on the key that writes, instead of the one that looks up."""
    S = alpha[:, None] * S
    return S + torch.outer(erase * k, write * v - k @ S)


def _error_gated(S, k, v, alpha, erase, write):
    """Gates the whole error, so that the write gate also scales the erase."""
    S = alpha[:, None] * S
    return S + torch.outer(k, write * (v - (erase * k) @ S))


TWO_GATES = Exercise(
    id="3.6",
    title="One gate to erase, one gate to write",
    task="""
Write `my_two_gates(S, k, v, alpha, erase, write)`: one write of Gated DeltaNet-2 (arXiv 2605.22791), which returns the
new matrix. First row i of `S` `(d_k, d_v)` keeps the share `alpha[i]`. Then the memory is asked with the key `k`
`(d_k,)`, each of whose channels is multiplied by its `erase` gate; that answer is taken out under `k`. And the value
`v` `(d_v,)`, each of whose channels is multiplied by its `write` gate, is added under `k`. Leave `S` as it was.
""",
    stub="def my_two_gates(S, k, v, alpha, erase, write):\n    ...\n",
    properties=(
        right_shape("a matrix of the same shape comes out", _one_write, lambda S, *_: S.shape, hint=1),
        _no_erase,
        _collapses,
        _no_write,
        equals("it is the paper's equation, for any gates", _one_write, _as_written, hint=3),
        pure("S stays as it was", _one_write, hint=1),
    ),
    hints=(
        "Three lines: let the rows fade, look up with the gated key, add one outer product. alpha[:, None] * S fades.",
        "Where KDA has beta * (v - k @ S) under k, this has write * v - (erase * k) @ S: the beta is inside, twice.",
        "S = alpha[:, None] * S; return S + torch.outer(k, write * v - (erase * k) @ S).",
    ),
    aim="Beta does two jobs at once. Taken apart they are two vectors, and equal vectors give KDA back.",
    solution=_two_gates_solution,
    wrong=(
        Wrong(
            _not_faded,
            "the old matrix was asked before it had faded: what was forgotten already is taken out once more",
            "with all gates equal to beta it is one write of KDA",
        ),
        Wrong(
            _written_at_the_erased_key,
            "the erase gate changed the key that is written under; it belongs to the look-up alone",
            "with the erase gate at 0 nothing old is looked up",
        ),
        Wrong(
            _error_gated,
            "the write gate was applied to the difference, so that it gates the erasing as well",
            "with all gates equal to beta it is one write of KDA",
        ),
    ),
)
