"""The language-model suite, for every model with clocks in suite.py."""

import pytest
import torch

from nl_course.memories import State, Trace
from nl_course.nested import updates_after
from nl_course.training.checkpoint import load_model, save_model
from tests.nested.suite import (
    CASES,
    TOKENS,
    assert_close,
    assert_same_state,
    build,
    describe,
    oracle,
    read,
    text,
)

every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_it_does_what_the_rule_says(case):
    model = build(case)
    logits, state = model(text())
    for row in range(2):
        expected, weights, count = oracle(model, text()[row : row + 1])
        assert_close(logits[row : row + 1], expected)
        assert state.fast.keys() == weights.keys()
        for name, pair in weights.items():
            for w, wanted in zip(state.fast[name], pair, strict=True):
                assert_close(w[row], wanted)
    for name, level, _ in model.clocked:
        assert count[name] == updates_after(TOKENS, level.config.chunk)


READ = ((torch.no_grad, [1] * TOKENS), (torch.enable_grad, [3, 5, 0, 4, 1]), (torch.inference_mode, [4, 1, 4, 4]))


@every_case
def test_any_split_is_the_whole_however_it_is_read(case):
    model = build(case)
    expected, whole = model(text())
    for mode, pieces in READ:
        with mode():
            logits, state = read(model, text(), pieces)
            assert_close(logits, expected)
            assert_same_state(state, whole)
            assert describe(state) == describe(whole)


@every_case
def test_state_bytes_are_the_formula_at_every_token(case):
    model, state = build(case), None
    assert model.init_state(2).nbytes == model.state_bytes(0, 2)
    with torch.no_grad():
        for t in range(TOKENS):
            _, state = model(text()[:, t : t + 1], state)
            assert state.nbytes == model.state_bytes(t + 1, 2)


@every_case
def test_a_state_saved_in_mid_chunk_goes_on_exactly(case, tmp_path):
    model = build(case).requires_grad_(False)
    expected, whole = model(text())
    for cut in (3, 4):
        _, state = model(text()[:, :cut])
        state.save(tmp_path / "state.safetensors")
        loaded = State.load(tmp_path / "state.safetensors")
        assert loaded.nbytes == state.nbytes
        logits, after = model(text()[:, cut:], loaded)
        assert_close(logits, expected[:, cut:])
        assert_same_state(after, whole)


@every_case
def test_generating_is_reading_what_was_generated(case):
    model = build(case).requires_grad_(False)
    prompt = text(tokens=5)
    for pieces in ([5], [2, 3]):
        state = None
        for piece in prompt.split(pieces, dim=1)[:-1]:
            _, state = model(piece, state)
        last = prompt.split(pieces, dim=1)[-1]
        streamed = torch.stack(list(model.generate(last, 7, temperature=0, state=state)), dim=1)
        logits, _ = model(torch.cat([prompt, streamed], dim=1))
        assert torch.equal(streamed, logits[:, 4:-1].argmax(-1))


@every_case
def test_a_branched_state_changes_nobody_elses(case):
    model = build(case)
    with torch.no_grad():
        _, state = model(text()[:, :3])
        before = {name: t.clone() for name, t in state.tensors().items()}
        one, _ = model(text()[:, 3:], state)
        model(text(seed=9)[:, 3:], state)
        again, _ = model(text()[:, 3:], state)
    assert_close(one, again)
    for name, t in state.tensors().items():
        assert torch.equal(t, before[name])


@every_case
def test_traces_do_not_change_the_numbers_and_are_those_of_any_split(case):
    model, trace, pieces = build(case), Trace(), Trace()
    expected, _ = model(text())
    with torch.no_grad():
        logits, _ = model(text(), None, trace)
        state = None
        for piece in text().split([3, 5, 5], dim=1):
            _, state = model(piece, state, pieces)
    assert_close(logits, expected)
    names = [name for name in trace.names() if ".levels." in name]
    assert len(names) == 4 * len(model.clocked)
    for name in names:
        assert trace[name].shape == (2, TOKENS)
        assert_close(pieces[name], trace[name])
    for name, level, _ in model.clocked:
        moved = [t for t in range(1, TOKENS) if t % level.config.chunk == 0]
        assert trace[f"{name}.changed"][0].nonzero().flatten().tolist() == moved
    losses = model.token_losses(text())
    assert trace["loss"][:, 0].isnan().all()
    assert_close(trace["loss"][:, 1:], losses.detach())
    if model.clocked:
        assert_close(pieces["loss"][:, 1:], losses.detach())


@every_case
def test_a_model_goes_to_disk_and_comes_back(case, tmp_path):
    model = build(case)
    save_model(model, tmp_path / "model.safetensors", dtype=torch.float64)
    loaded = load_model(tmp_path / "model.safetensors", dtype=torch.float64)
    assert loaded.config == model.config
    assert_close(loaded(text())[0], model(text())[0])
