"""Probing a model while it reads: the numbers are the model's own, and nothing moves."""

import torch

from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.nested.probe import follow, losses_with, probe_losses


def small(chunks=(4, 8), rate=0.1):
    torch.manual_seed(0)
    levels = tuple(LevelConfig(6, chunk, rate, learn_rate=False) for chunk in chunks)
    return NestedLanguageModel(NestedConfig(11, 8, 2, 2, levels, options={"window": 4}))


def test_with_the_start_a_probe_is_the_resting_model():
    model, resting = small(), small((0, 0))
    resting.load_state_dict(model.state_dict())
    windows = torch.randint(11, (3, 21))
    fast = {clocked.name: clocked.level.start(3) for clocked in model.clocked}
    expected = resting.token_losses(windows)
    torch.testing.assert_close(losses_with(model, fast, windows), expected)
    torch.testing.assert_close(probe_losses(model, model.init_state(2), windows), expected.mean().expand(2))


def test_each_text_is_probed_with_its_own_weights_and_nothing_moves():
    model, tokens, windows = small(), torch.randint(11, (2, 30)), torch.randint(11, (3, 9))
    with torch.no_grad():
        _, state = model(tokens)
    before = {name: w.clone() for name, w in state.tensors().items()}
    losses = probe_losses(model, state, windows)
    for row in range(2):
        alone = probe_losses(model, model(tokens[row : row + 1])[1], windows)
        torch.testing.assert_close(losses[row : row + 1], alone)
    assert losses[0] != losses[1]
    assert all(torch.equal(w, before[name]) for name, w in state.tensors().items())


def test_follow_reads_as_ever_with_probes_in_between():
    model, tokens, windows = small(), torch.randint(11, (2, 33)), torch.randint(11, (3, 9))
    curves, state = follow(model, tokens, 8, {"a": windows})
    assert curves["a"].shape == (2, 5) and curves["read"].shape == (2, 4)
    with torch.no_grad():
        _, whole = model(tokens[:, :-1])
        paid = model.token_losses(tokens).unflatten(1, (4, 8)).mean(dim=2)
    torch.testing.assert_close(curves["read"], paid)
    torch.testing.assert_close(curves["a"][:, -1], probe_losses(model, whole, windows))
    for name, w in whole.tensors().items():
        torch.testing.assert_close(state.tensors()[name], w)
