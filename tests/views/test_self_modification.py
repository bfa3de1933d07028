"""A trained layer's own numbers, what is held still, the share that a write leaves, words, bad input."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace
from nl_course.memories.ablations.switches import ablated
from nl_course.tasks.formal import encode
from nl_course.views import self_modification as view_module
from nl_course.views.self_modification import ANSWERS, HELD, TEXT, SelfModification, compute, left, model


def test_the_numbers_are_those_of_the_model():
    arrays = compute(TEXT)
    trace = Trace(("layers.0.step_size", "layers.0.key", "layers.0.value"))
    logits, _ = model()(torch.tensor([encode("parity", TEXT)]), trace=trace)
    assert np.array_equal(arrays["step"], trace["layers.0.step_size"][0, :, 0])
    products = torch.einsum("tf,tf->t", trace["layers.0.key"][0, :, 0], trace["layers.0.value"][0, :, 0])
    assert np.allclose(arrays["along"], products, atol=1e-6)
    odd = np.cumsum([int(bit) for bit in TEXT]) % 2 == 1
    says_odd = (logits[0, :, 6] > logits[0, :, 7]).numpy()  # symbols that may follow, or these and the end
    assert np.array_equal(arrays["right"] > 0.5, says_odd == odd)


def test_the_rule_differs_by_bit_and_the_answers_are_right():
    arrays = compute(TEXT)
    ones = arrays["ones"]
    assert arrays["step"][ones].min() > 1.5 * arrays["step"][~ones].max()
    assert arrays["along"][ones].max() < -0.3 and arrays["along"][~ones].min() > 0.3
    assert (arrays["right"] > 0.5).all()


def test_what_is_held_still_is_held_still():
    for name, memories in HELD.items():
        arrays = compute(TEXT, name)
        with ablated(model().layers[0].memory, frozen=memories):
            trace = Trace(("layers.0.step_size",))
            model()(torch.tensor([encode("parity", TEXT)]), trace=trace)
        assert np.array_equal(arrays["step"], trace["layers.0.step_size"][0, :, 0])
        assert np.array_equal(arrays["usual"], compute(TEXT)["right"])


def test_a_write_leaves_that_share():
    """Along its own key, by retention 1, erase and error toward v W."""
    torch.manual_seed(0)
    key = torch.nn.functional.normalize(torch.randn(4, dtype=torch.float64), dim=0)
    along, step = -0.7, 0.4
    W = torch.randn(4, 4, dtype=torch.float64)
    target = along * (key @ W)  # v = along * k
    after = W - step * torch.outer(key, key @ W) - step * torch.outer(key, key @ W - target)
    assert torch.allclose(key @ after, left(step, along) * (key @ W), atol=1e-12)


def test_draw_shows_the_arrays():
    for held in ("nothing", "the key memory"):
        arrays, figure = compute(TEXT, held), go.Figure()
        view_module.draw(arrays, figure)
        steps = {x: y for trace in figure.data[:2] for x, y in zip(trace.x, trace.y)}
        assert np.allclose([steps[t] for t in range(1, len(TEXT) + 1)], arrays["step"])
        assert np.allclose(figure.data[-1].y, arrays["right"])
        assert any(np.allclose(trace.y, arrays["usual"]) for trace in figure.data[4:])


def test_the_view_answers_and_judges():
    view = SelfModification(strict=True)
    assert f"{len(TEXT)} of {len(TEXT)} answers are right" in view.readout
    assert view.predict(ANSWERS[0]).endswith("16 bits or more.")
    view.set(held="the key memory")
    assert "Held still: the key memory" in view.readout and f'came out "{ANSWERS[1]}"' in view.verdict
    view.set(bits="1111")
    assert "A 0" not in view.readout and "More" not in view.verdict
    view.controls_by_name["bits"].value = "1012"
    assert "not '2'" in view.error


@pytest.mark.parametrize(
    ("wrong", "words"), [({"bits": "1"}, "2 to 64 bits"), ({"bits": "10a"}, "'a'"), ({"held": "it"}, "held still")]
)
def test_bad_settings_are_told_in_words(wrong, words):
    with pytest.raises(CourseError, match=words):
        compute(**{"bits": TEXT, **wrong})
