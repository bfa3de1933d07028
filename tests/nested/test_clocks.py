"""A continuum memory system and the model around it: when levels move and by how much, variants, causality, splits."""

from dataclasses import replace

import pytest
import torch

from nl_course.memories import Trace
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedLanguageModel, from_pretrained_blocks, updates_after
from tests.nested.suite import CASES, TOKENS, assert_close, assert_same_state, build, levels, read, text

DONOR = ModelConfig(vocab=11, width=8, layers=3, heads=2, hidden=7)
A_FEW = ["sequential-attention-mixed", "nested-delta-mixed", "independent-attention-odd", "ttt-e2e"]


def donor(**options) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(replace(DONOR, **options), path="reference").double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


# -- when weights move, and by how much --------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["sequential-attention-mixed", "independent-attention-mixed", "sequential-delta-odd"])
def test_weights_move_only_when_a_chunk_is_over(case):
    model, state, before = build(case), None, None
    with torch.no_grad():
        for t in range(TOKENS):
            _, state = model(text()[:, t : t + 1], state)
            for name, level, _ in model.clocked:
                if before is not None:
                    moved = not torch.equal(state.fast[name][0], before[name][0])
                    # The update that closes a chunk of C tokens is made when token C + 1 arrives.
                    assert moved == (t % level.config.chunk == 0), (name, t)
                    assert updates_after(t + 1, level.config.chunk) == t // level.config.chunk
            before = state.fast


def test_the_change_is_minus_the_rate_times_the_gradient_of_the_chunks_loss():
    """One level of period 4 in the last block: its segment's loss, differentiated by hand with the memories' states at
    the chunk's start held constant."""
    model = build("upper-blocks")
    with torch.no_grad():
        _, before = model(text()[:, :5])
        _, after = model(text()[:, 5:9], before)
    _, at_start = model(text()[:, :4])
    name = "layers.3.levels.1"
    weights = {}
    for level_name, pair in before.fast.items():
        weights[level_name] = tuple(w.detach().clone().requires_grad_() for w in pair)
    h, states = model.embedding(text()[:, 4:8]), at_start.detach().layers
    for layer, state in zip(model.layers, states, strict=True):
        h, _ = layer(h, state, None, weights, {})
    losses = torch.nn.functional.cross_entropy(model.logits(h).flatten(0, 1), text()[:, 5:9].flatten(), reduction="sum")
    rate = float(model.layers[3].levels[1].rate)
    gradients = torch.autograd.grad(losses, weights[name])
    for w, g, new in zip(before.fast[name], gradients, after.fast[name], strict=True):
        assert_close(new, w - rate * g)


@pytest.mark.parametrize("chunk", [1, 3, 4, 12, 13, 14])
def test_the_count_of_updates(chunk):
    trace = Trace()
    model = build(replace(CASES["sequential-attention-one"], levels=levels(chunk)))
    model(text(), None, trace)
    for name, _, _ in model.clocked:
        assert trace[f"{name}.changed"].sum(1).tolist() == [(TOKENS - 1) // chunk] * 2


# -- what remains when nothing moves -----------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", ["sequential", "nested", "independent"])
def test_without_frequencies_or_rates_it_is_the_plain_stack(variant):
    config = replace(CASES["sequential-attention-mixed"], variant=variant)
    model = build(config)
    still = replace(config, levels=levels(0, 0, 0))
    no_rates = replace(config, levels=tuple(replace(level, rate=0.0) for level in config.levels[0]))
    assert not torch.equal(model(text())[0], _same_weights(still, model)(text())[0])
    assert_close(_same_weights(no_rates, model)(text())[0], _same_weights(still, model)(text())[0])
    h = model.embedding(text())
    for layer in model.layers:
        h, _ = layer.mix(h, layer.init_state(2), None)
        shares, x = layer.shares if layer.shares is not None else [1.0] * 3, h
        for level, share in zip(layer.levels, shares):
            y = torch.nn.functional.rms_norm(x if layer.shares is not None else h, (8,), level.norm.weight, 1e-6)
            h = h + share * (torch.nn.functional.gelu(y @ level.first, approximate="tanh") @ level.last)
    assert_close(_same_weights(still, model)(text())[0], model.logits(h))


def _same_weights(config, model) -> NestedLanguageModel:
    """A model of that config with the other's weights, as far as it has a place for them."""
    other = NestedLanguageModel(config).double()
    own = other.state_dict()
    other.load_state_dict(own | {name: w for name, w in model.state_dict().items() if name in own})
    return other


@pytest.mark.parametrize("options", [{}, {"conv": 3}, {"tied": False}, {"memory": "delta"}])
@pytest.mark.parametrize(("chunks", "rates"), [(0, 0.1), (None, 0.1), (4, 0.0), ([0, 2, 4], [0.5, 0.0, 0.0])])
def test_level_stacking_at_rate_0_is_the_donor(options, chunks, rates):
    model = donor(**options) if "memory" not in options else LanguageModel(replace(DONOR, **options)).double()
    nested = from_pretrained_blocks(model, chunks=chunks, rates=rates)
    assert_close(nested(text())[0], model(text())[0])
    moving = from_pretrained_blocks(model, chunks=4, rates=0.5)
    assert_close(moving(text())[0][:, :4], model(text())[0][:, :4])
    assert (moving(text())[0][:, 4:] - model(text())[0][:, 4:]).abs().max() > 1e-4


def test_one_chunk_changes_nothing_until_the_token_after_it():
    model = build(replace(CASES["sequential-attention-one"], levels=levels(TOKENS)))
    still = _same_weights(replace(model.config, levels=levels(0)), model)
    with torch.no_grad():
        logits, state = model(text())
        assert_close(logits, still(text())[0])
        name, level, _ = model.clocked[0]
        assert torch.equal(state.fast[name][0], level.first.expand(2, -1, -1))
        _, state = model(text()[:, :1], state)
    assert (state.fast[name][0] - level.first).norm() > 1e-3


# -- variants ----------------------------------------------------------------------------------------------------------
def test_one_independent_level_of_weight_1_is_that_mlp():
    sequential = build("sequential-attention-one")
    independent = _same_weights(replace(sequential.config, variant="independent"), sequential)
    assert all(layer.shares.tolist() == [1.0] for layer in independent.layers)
    assert_close(independent(text())[0], sequential(text())[0])


def test_independent_levels_may_be_permuted_with_their_weights():
    config = replace(CASES["independent-attention-mixed"], levels=levels(2, 6, 0))
    model, order = build(config), [2, 0, 1]
    other = NestedLanguageModel(replace(config, levels=tuple(config.levels[0][j] for j in order))).double()
    weights = dict(model.state_dict())
    for i in range(config.layers):
        weights[f"layers.{i}.shares"] = model.layers[i].shares[order]
        for new, old in enumerate(order):
            for name, w in model.layers[i].levels[old].state_dict().items():
                weights[f"layers.{i}.levels.{new}.{name}"] = w
    own = other.state_dict()
    other.load_state_dict({name: weights[name] for name in own})
    assert_close(other(text())[0], model(text())[0])
    sequential = replace(config, variant="sequential")
    swapped = replace(other.config, variant="sequential")
    assert not torch.allclose(_same_weights(sequential, model)(text())[0], _same_weights(swapped, other)(text())[0])


def test_a_nested_level_returns_to_its_start():
    """Periods 2 and 6: the fast level is back at its start after 3 of its updates, and after 6; periods 4 and 6 after
    ceil(6 / 4) = 2. The slowest is never reset."""
    for chunks, every in (((2, 6), 3), ((4, 6), 2)):
        model = build(replace(CASES["nested-attention-mixed"], levels=levels(*chunks)))
        trace, long = Trace(), text(tokens=26)
        with torch.no_grad():
            model(long, None, trace)
        fast, slow = (trace[f"layers.1.levels.{j}.drift"][0] for j in (0, 1))
        for t in range(26):
            updates = t // chunks[0]
            assert (fast[t] == 0) == (updates % every == 0), (chunks, t)
            assert (slow[t] == 0) == (t < chunks[1]), (chunks, t)


# -- causality ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
def test_no_look_ahead(case):
    model = build(case)
    with torch.no_grad():
        expected, _ = model(text())
        for j in (1, 4, 5, 8, TOKENS - 1):
            other = text().clone()
            other[:, j] = (other[:, j] + 1) % 11
            logits, _ = model(other)
            assert torch.equal(logits[:, :j], expected[:, :j])
            assert not torch.equal(logits[:, j:], expected[:, j:])


@pytest.mark.parametrize("case", A_FEW)
def test_no_loss_has_a_gradient_to_a_later_input(case):
    model = build(case)
    inputs = []
    model.embedding.register_forward_hook(lambda module, given, h: inputs.append(h))
    losses = model.token_losses(text(tokens=TOKENS + 1))
    for t in (0, 4, 7, TOKENS - 1):
        (to,) = torch.autograd.grad(losses[:, t].sum(), inputs[0], retain_graph=True)
        assert (to[:, t + 1 :] == 0).all() and (to[:, : t + 1] != 0).any()


# -- splits, rows, training and evaluation, the plain transformer ------------------------------------------------------
@pytest.mark.parametrize("case", A_FEW)
@pytest.mark.parametrize("pieces", [[1] * TOKENS, [2, 1, 3, 7], [5, 8]])
def test_streaming_in_any_split_is_all_at_once_also_for_the_outer_gradient(case, pieces):
    model = build(case)
    expected, whole = model(text())
    logits, state = read(model, text(), pieces)
    assert_close(logits, expected)
    assert_same_state(state, whole)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    parameters = list(model.parameters())
    once = torch.autograd.grad((expected * weight).sum(), parameters, materialize_grads=True)
    split = torch.autograd.grad((logits * weight).sum(), parameters, materialize_grads=True)
    for a, b in zip(once, split, strict=True):
        assert_close(a, b, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_share(case):
    model = build(case)
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    tokens = text(rows=3, tokens=9)
    with torch.no_grad():
        logits, state = model(tokens)
        for row in range(3):
            alone, its = model(tokens[row : row + 1])
            assert_close(alone, logits[row : row + 1])
            assert_same_state(its, state.rows([row]))
        permuted, moved = model(tokens[[2, 0, 1]])
        assert_close(permuted, logits[[2, 0, 1]])
        assert_same_state(moved, state.rows([2, 0, 1]))
        again, _ = model(tokens)  # a new text begins at the learned start
    assert torch.equal(again, logits)
    for name, w in model.state_dict().items():
        assert torch.equal(w, weights[name])


@pytest.mark.parametrize("case", A_FEW)
def test_training_and_evaluation_are_one_forward(case):
    model = build(case)
    training, _ = model.train()(text())
    with torch.no_grad():
        evaluating, state = model.eval()(text())
    assert_close(training, evaluating)
    _, half = model(text()[:, :7])
    logits, after = model(text()[:, 7:], half)
    assert_close(logits, training[:, 7:])
    assert_same_state(after, state)


def test_hope_attention_without_frequencies_is_a_transformer():
    transformer = donor()
    nested = from_pretrained_blocks(transformer, chunks=0)
    assert nested.parameter_count() == transformer.parameter_count()
    expected, logits = transformer(text())[0], nested(text())[0]
    assert_close(logits, expected)
    for layer, ours in zip(transformer.layers, nested.layers, strict=True):
        a = torch.autograd.grad(expected.square().sum(), layer.mlp.down.weight, retain_graph=True)[0]
        b = torch.autograd.grad(logits.square().sum(), ours.levels[0].last, retain_graph=True)[0]
        assert_close(a, b.T)
