"""Our self-modifying memories against the block of nested-learning 0.2.0, where the two compute the same thing, and
where they do not.

Accounted for: their loss is the squared error, ours half of it, so our errors are doubled; they erase first layers only
(our erase "input"), and GELU is in its erf form, which they are given in our tanh form here. Their step and retention
memories have a linear skip where ours have none, so key, value and memory are compared."""

from functools import partial

import pytest
import torch

from nl_course.memories import SelfModifying, SelfModifyingConfig
from nl_course.memories.common.inner_model import unit
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import MLPBank, Rule
from nl_course.memories.hope.chunk import decay_masks, write_layers
from tests.peers import moved, random

theirs = pytest.importorskip(
    "nested_learning.titan.self_modifying", reason="nested-learning is not installed; `make peers` does it."
)
WIDTH, TOKENS = 8, 7


@pytest.fixture
def block(monkeypatch):
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")
    functional = type("functional", (), {**vars(torch.nn.functional), "gelu": gelu})
    monkeypatch.setattr(theirs, "F", functional)

    def build(**options):
        torch.manual_seed(0)
        return moved(theirs.SelfModifyingTitans(theirs.SelfModifyingTitansConfig(dim=WIDTH, **options)))

    return build


@pytest.mark.parametrize("erase", ["input", "off"])
def test_one_chunk_writes_the_same(block, erase):
    layer, names = block(use_rank1_precond=erase == "input"), {"key": "k", "value": "v", "memory": "memory"}
    state = layer.init_fast_state()
    k, v = unit(random(2, TOKENS, WIDTH, seed=1)), random(2, TOKENS, WIDTH, seed=2)
    step, kept = random(2, TOKENS, seed=3).sigmoid() * 0.3, random(2, TOKENS, seed=4).sigmoid()
    state = layer._ensure_batched_state(state, 2)
    bank = MLPBank(tuple(names), WIDTH, WIDTH, "gelu")
    start = {ours: getattr(state, name) for ours, name in names.items()}
    weights = bank.gather({name: {"into": s.w2.mT[:, None], "out": s.w1.mT[:, None]} for name, s in start.items()})
    with torch.no_grad():
        layer._apply_chunk_update_seq(
            state, k_seq=k, v_seq=v, eta_seq=step, alpha_seq=kept, memories=tuple(names.values())
        )
        masks = decay_masks(k[:, None], step[:, None], kept[:, None].log(), erase == "input", 0.0)
        grads = bank.rank_one_grads(weights, k[:, None], v[:, None], None, False)
        grads = {name: grad._replace(error=2 * grad.error) for name, grad in grads.items()}
        writes = write_layers(grads, masks, Rule(erase, 0.0, "none"), weights, Weights(), True)
    after = bank.spread(Weights({name: write.after()[0] for name, write in writes.items()}))
    for ours, name in names.items():
        moved_to = getattr(state, name)
        torch.testing.assert_close(after[ours]["into"][:, 0].mT, moved_to.w2, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(after[ours]["out"][:, 0].mT, moved_to.w1, rtol=1e-10, atol=1e-10)


def test_their_key_and_value_memories_get_no_outer_gradient_ours_do(block):
    layer, x = block(chunk_size_other=2, chunk_size_memory=2), random(1, TOKENS, WIDTH)
    y, _ = layer.forward_with_updates(x, layer.init_fast_state())
    gradients = torch.autograd.grad(
        layer.forward_with_state(x, layer.init_fast_state()).sum() + (y.sum() if y.requires_grad else 0),
        list(layer.parameters()),
        allow_unused=True,
    )
    found = {name for (name, _), g in zip(layer.named_parameters(), gradients) if g is not None and g.any()}
    assert found and not {name for name in found if name.startswith(("m_k", "m_v", "m_eta", "m_alpha"))}
    ours = moved(SelfModifying(SelfModifyingConfig(WIDTH, 1, chunk=2)))
    gradients = torch.autograd.grad(ours(x)[0].square().sum(), list(ours.start.parameters()))
    assert all(g.any() for g in gradients)


def test_theirs_depends_on_how_a_text_is_cut_ours_does_not(block):
    layer, x = block(chunk_size_other=4, chunk_size_memory=8), random(1, 24, WIDTH)
    ours = moved(SelfModifying(SelfModifyingConfig(WIDTH, 1, chunk=8, chunk_others=4)))
    with torch.no_grad():
        whole, _ = layer.forward_with_updates(x, layer.init_fast_state())
        state, pieces = layer.init_fast_state(), []
        for piece in x.split(6, dim=1):
            y, state = layer.forward_with_updates(piece, state)
            pieces.append(y)
        assert (torch.cat(pieces, dim=1) - whole).abs().max() > 1e-3
        whole, _ = ours(x)
        state, pieces = None, []
        for piece in x.split(6, dim=1):
            y, state = ours(piece, state)
            pieces.append(y)
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
