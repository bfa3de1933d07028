"""Recomputing by segment: the same values and gradients as without, at any split, and a graph that is freed."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from nl_course.nested import inner_loop, recompute
from tests.nested.suite import CASES, TOKENS, assert_close, build, read, text

EVERY = ["sequential-attention-mixed", "independent-delta-odd", "upper-blocks", "window-delta-conv", "ttt", "ttt-e2e"]


def both(config, run):
    """What `run` gives and the gradients of its sum, without and with recomputing."""
    results = []
    for again in (False, True):
        model = build(config)
        model.recompute = again
        value = run(model)
        gradients = torch.autograd.grad(value.sum(), list(model.parameters()), materialize_grads=True)
        results.append((value, *gradients))
    return zip(*results, strict=True)


@pytest.mark.parametrize("case", [*EVERY, *(name for name in ("hope",) if name in CASES)])
def test_values_and_gradients_are_the_same(case):
    for plain, again in both(case, lambda model: model.token_losses(text(tokens=TOKENS + 1))):
        assert_close(again, plain)


@pytest.mark.parametrize("options", [dict(first_order=True), dict(truncate=1), dict(clip=0.02)], ids=str)
def test_with_each_way_to_pay_less(options):
    config = replace(CASES["ttt-e2e"], **options)
    for plain, again in both(config, lambda model: model.token_losses(text(tokens=TOKENS + 1))):
        assert_close(again, plain)


def test_in_pieces_and_through_the_last_state():
    def run(model):
        logits, state = read(model, text(), [3, 6, 4])
        return torch.cat([logits.flatten(), *(t.flatten() for t in state.tensors().values() if t.is_floating_point())])

    for plain, again in both("ttt-e2e", run):
        assert_close(again, plain)


def test_a_segment_is_run_twice_and_its_graph_is_freed(monkeypatch):
    model, calls, segments = build("ttt-e2e"), [], []

    def spy(run, inputs, parameters):
        segments.append(weakref.ref(run))
        return recompute.recomputed(run, inputs, parameters)

    monkeypatch.setattr(inner_loop, "recomputed", spy)
    model.recompute = True
    model.layers[3].memory.register_forward_hook(lambda module, given, out: calls.append(given[0].shape[1]))
    losses = model.token_losses(text(tokens=TOKENS + 1))
    assert calls == [4, 4, 4, 1]
    losses.mean().backward()
    assert calls[4:] == [4, 4, 4]
    assert len(segments) == 3 and all(segment() is not None for segment in segments)
    gc.disable()  # a graph that holds itself would wait for the collector, which cannot see through autograd
    try:
        del losses
        assert all(segment() is None for segment in segments)
    finally:
        gc.enable()


def test_what_is_kept_does_not_grow_with_the_networks_depth_above():
    """Bytes saved for the backward pass, counted as autograd packs them."""

    def saved_bytes(again: bool) -> int:
        model, sizes = build("ttt-e2e"), {}
        model.recompute = again

        def pack(t):
            sizes[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model.token_losses(text(tokens=TOKENS + 1)).mean()
        return sum(sizes.values())

    assert saved_bytes(True) < 0.7 * saved_bytes(False)
