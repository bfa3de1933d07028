"""The live loss curve: what it is given is what it shows, in pictures and words, live or recorded."""

import math

import pytest
import torch

from nl_course.model import LanguageModel, ModelConfig
from nl_course.training import TrainingConfig, train
from nl_course.views.loss_curve import LossCurve

METRICS = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0, "held_out_loss": 4.5}, {"step": 3, "loss": 3.0}]


def test_it_shows_what_it_is_given():
    curve = LossCurve.of(METRICS, label="recorded on a Tuesday")
    thin, thick, diamonds = curve.figure.data
    assert (list(thin.x), list(thin.y)) == ([1, 2, 3], [5, 4, 3])
    assert (list(diamonds.x), list(diamonds.y)) == ([2], [4.5])
    assert list(thick.x) == [1, 2, 3] and list(thick.y) == pytest.approx([5, 4.5, 4])
    assert "recorded on a Tuesday" in curve.figure.layout.title.text
    assert thin.line.width < thick.line.width


def test_its_sentence_says_the_numbers():
    curve = LossCurve(steps=10)
    assert repr(curve) == "Loss (live): No step has been taken yet."
    for line in METRICS[:2]:
        curve(line)
    assert "Step 2: loss 4.50 nats per token, 5.00 at the start; 4.50 on books held out" in curve.readout
    assert f"perplexity {math.exp(4.5):.1f}, a blind guess has 256" in curve.readout
    assert curve._readout.text == curve.readout
    assert tuple(curve.figure.layout.xaxis.range) == (0, 10)


def test_the_slider_says_over_how_many_steps_the_mean_goes():
    curve = LossCurve.of(METRICS)
    assert curve.over.description
    curve.over.value = 2
    assert list(curve.figure.data[1].y) == pytest.approx([5, 4.5, 3.5]) and "loss 3.50" in curve._readout.text
    curve.over.value = 1
    assert list(curve.figure.data[1].y) == pytest.approx([5, 4, 3])


def test_it_is_drawn_now_and_then_and_at_each_look_at_held_out_text(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("nl_course.views.loss_curve.time.monotonic", lambda: now[0])
    curve = LossCurve()
    curve(METRICS[0])
    assert len(curve.figure.data[0].y) == 0
    curve(METRICS[1])
    assert len(curve.figure.data[0].y) == 2
    now[0] += 1
    curve(METRICS[2])
    assert len(curve.figure.data[0].y) == 3


def test_training_feeds_it():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16))
    config = TrainingConfig(steps=4, batch_size=2, length=16, warmup=1, evaluate_every=2)
    stream = torch.randint(0, 256, (500,))
    curve = LossCurve(steps=4)
    run = train(model, stream, config, held_out=stream, on_step=curve, progress=False)
    curve.draw()
    assert list(curve.figure.data[0].y) == run.losses and curve.held_out == run.held_out
    assert [step for step, _ in run.held_out] == [2, 4]


def test_its_printed_form_is_the_sentence():
    bundle = LossCurve.of(METRICS)._repr_mimebundle_()
    assert bundle["text/plain"].startswith("Loss (live): Step 3: ")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_metrics_without_a_loss_are_refused():
    with pytest.raises(KeyError, match="loss"):
        LossCurve()({"step": 1})
