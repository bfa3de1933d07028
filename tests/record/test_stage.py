"""The stage's recordings: the fast inner loop is the reference, takes are the trace, cuts are real cuts."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError
from nl_course.memories import Trace
from nl_course.model import LanguageModel, ModelConfig
from nl_course.record import record
from nl_course.record.stage.gradient import walk_back
from nl_course.record.stage.linear import learn_by_hand
from nl_course.record.stage.reading import Gains, ask, gates_turned, read
from nl_course.record.stage.take import packed, take, unpacked
from nl_course.record.stage.text import place_fact
from nl_course.seeding import seeded
from nl_course.tasks.text import encode

TEXT = place_fact("The sea is", "grey.", "crate", "72")


OPTIONS = {
    "titans": {"layers": 1, "chunk": 1, "persistent": 0},
    "self-modifying": {"kind": "linear", "chunk": 1, "chunk_others": 1, "start": "random"},
}


def model_of(memory: str = "titans", **options) -> LanguageModel:
    options = OPTIONS.get(memory, {}) | options
    with seeded(3):
        model = LanguageModel(
            ModelConfig(width=16, layers=1, heads=2, hidden=16, memory=memory, options=options, conv=4)
        )
        for name, parameter in model.named_parameters():
            if "forget" in name or "embedding" in name:
                torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return learn_by_hand(model_of())


@pytest.mark.parametrize("stop", ["none", "first-order"])
def test_the_inner_loop_by_hand_is_the_reference(stop):
    tokens = encode(TEXT.text)[None]
    found = []
    for by_hand in (False, True):
        model = model_of(stop_gradient=stop).double()
        model.layers[0].memory.neural.path = "reference"
        if by_hand:
            learn_by_hand(model)
        _, state = model(tokens[:, :5])
        logits, _ = model(tokens[:, 5:], state)
        logits.logsumexp(-1).sum().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_take_replays_the_models_own_trace(model):
    tokens = encode(TEXT.text)
    trace = Trace()
    with torch.no_grad():
        _, state = model(tokens[None], None, trace)
    (form,) = take(TEXT, {"titans": {7: model}}, outer=False)["memories"]
    reading = read(model, tokens)
    for number, (head, stored) in enumerate(zip(reading.heads, form["checkpoints"][0]["heads"], strict=True)):
        assert np.array_equal(head.key, trace["layers.0.k"][0, :, number].numpy())
        assert np.abs(unpacked(stored["key"]) - head.key).max() < 1e-3
        assert np.array_equal(unpacked(stored["step"]), trace["layers.0.step_size"][0, :, number].numpy())
        matrices = head.matrices()
        last = state.layers[0].memory.neural.memory["W1"][0, number].numpy()
        assert np.abs(matrices[-1] - last).max() < 1e-5
        before = np.concatenate([head.start[None], matrices[:-1]])
        errors = np.einsum("tm,tmf->tf", head.key, before) - head.value
        assert np.abs(errors - head.error).max() < 1e-5
        assert np.abs((errors**2).sum(-1) / 2 - head.loss_before).max() < 1e-4


def test_the_gated_delta_rule_replays_too():
    model = model_of("gated-delta")
    tokens = encode(TEXT.text)
    with torch.no_grad():
        _, state = model(tokens[None])
    for number, head in enumerate(read(model, tokens).heads):
        assert np.abs(head.matrices()[-1] - state.layers[0].memory.matrix[0, number].numpy()).max() < 1e-5
        assert np.allclose((head.error**2).sum(-1), head.loss_before, atol=1) or head.keep.min() < 1


def test_self_modifying_titans_replay_too():
    model = model_of("self-modifying")
    tokens = encode(TEXT.text)
    with torch.no_grad():
        _, state = model(tokens[None])
    layer = model.layers[0].memory
    inner = getattr(state.layers[0], "memory", state.layers[0])  # inside a BlockState where there is a convolution
    now = layer.weights(inner)["memory"]["out"][0].numpy()  # (h, f, f)
    heads = read(model, tokens).heads
    assert len(heads) == 2
    for number, head in enumerate(heads):
        assert np.abs(head.matrices()[-1] - now[number]).max() < 1e-5
        assert np.allclose((head.error**2).sum(-1) / 2, head.loss_before, atol=1e-5)
        assert np.abs(now[number] - head.start).max() > 0.1


@pytest.mark.parametrize("memory", ["titans", "attention"])
def test_a_question_changes_nothing_and_all_branches_answer_alike(memory):
    model = learn_by_hand(model_of(memory))
    tokens, question, answer = encode(TEXT.text), encode(TEXT.question), encode(TEXT.answer)
    ends = [4, 11, len(tokens)]
    answers = ask(model, tokens, ends, question, answer)
    for end, probability in zip(ends, answers.probability, strict=True):
        with torch.no_grad():
            logits, _ = model(torch.cat([tokens[:end], question, answer])[None])
        shares = logits[0, -3:-1].softmax(-1)
        assert probability == pytest.approx(float(shares[0, answer[0]] * shares[1, answer[1]]), rel=1e-3)


def test_a_cut_leaves_what_a_real_cut_leaves(model, monkeypatch):
    """What is written before the cut is detached in the real model, and the rest learns as it always does."""
    tokens, question, answer = encode(TEXT.text), encode(TEXT.question), encode(TEXT.answer)
    walk = walk_back(model, tokens, question, answer)
    whole = torch.cat([tokens, question, answer])[None]
    neural = model.layers[0].memory.neural
    inside = neural.write_inputs

    def gradient(cut: int) -> torch.Tensor:
        def with_constants(x, conv_states):
            q, k, v, gates, after = inside(x, conv_states)
            k, v = (torch.cat([u[:, :, :cut].detach(), u[:, :, cut:]], dim=2) for u in (k, v))
            return q, k, v, gates, after

        monkeypatch.setattr(neural, "write_inputs", with_constants)
        logits, _ = model(whole[:, :-1])
        loss = cross_entropy(logits[0, -len(answer) :], answer, reduction="sum")
        return torch.autograd.grad(loss, neural.value.weight)[0]

    # The question writes too. A cut right before it says how much of the gradient is the question's own.
    own = gradient(len(tokens))
    for cut in (0, 6, 13):
        assert walk.value_weights[cut] == pytest.approx((gradient(cut) - own).norm().item(), rel=1e-3)
    assert walk.value_weights[-1] == 0 and walk.start > 0 and walk.value.min() >= 0


def test_first_order_reaches_gates_alone_and_stopped_nothing(model):
    given = encode(TEXT.text), encode(TEXT.question), encode(TEXT.answer)
    exact, first, stopped = (walk_back(model, *given, mode) for mode in ("exact", "first-order", "stopped"))
    assert exact.loss == pytest.approx(first.loss) and exact.loss == pytest.approx(stopped.loss)
    assert exact.value.max() > 0 and first.value.max() == 0 and first.gates.max() > 0
    assert stopped.gates.max() == 0 and stopped.value.max() == 0


def test_turned_gates_turn_and_come_back(model):
    tokens = encode(TEXT.text)
    plain = read(model, tokens).heads[0]
    with gates_turned(model, Gains(step=0.5, keep=0.9)):
        other = read(model, tokens).heads[0]
    assert np.allclose(other.step, plain.step / 2) and np.allclose(other.keep, plain.keep * 0.9, atol=1e-6)
    assert np.array_equal(read(model, tokens).heads[0].step, plain.step)


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("f32", 0)])
def test_packing(kind, tolerance):
    array = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    assert np.abs(unpacked(packed(array, kind)) - array).max() <= tolerance


def test_a_fact_has_its_place_and_every_byte_a_word():
    assert TEXT.text.encode()[slice(*TEXT.answer_at)] == b"72" and TEXT.question == "\n<crate:"
    bytes_in_words = [t for first, last in TEXT.words for t in range(first, last + 1)]
    assert bytes_in_words == list(range(len(TEXT.text.encode())))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: place_fact("a", "b", "k y", "1"), "without spaces"),
        (lambda: place_fact("a crate", "b", "crate", "1"), "stands in the text already"),
        (lambda: Gains(keep=1.5), "keep must be at most 1"),
        (lambda: read(model_of(chunk=4), encode("abc")), "a write per token"),
        (lambda: read(model_of(), encode("a")), "2 to 400 bytes"),
    ],
)
def test_bad_input(wrong, said):
    with pytest.raises(CourseError, match=said):
        wrong()


def test_a_quick_recording(tmp_path):
    *checkpoints, path = record("stage", tmp_path, quick=True)
    form = json.loads(path.read_text())
    assert [memory["name"] for memory in form["memories"]] == ["titans", "attention"]
    titans, attention = form["memories"]
    assert [checkpoint["step"] for checkpoint in titans["checkpoints"]] == [0, 1, 3] and len(checkpoints) == 4
    assert set(titans["checkpoints"][0]["outer"]) == {"exact", "first-order", "stopped"}
    assert attention["checkpoints"][0]["heads"] == [] and attention["cache"]["shape"][0] == len(titans["bytes"]) - 1
