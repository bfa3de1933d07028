"""The wiring: what parts see beside masks and gradients, bytes and cuts beside the layer, the picture."""

from copy import deepcopy

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories.ablations.switches import ablated, ablation_of
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.needle import NeedleTask
from nl_course.tasks.needle_scores import needle_accuracy
from nl_course.tasks.text import encode
from nl_course.training.checkpoint import save_model
from nl_course.views import wiring_measure
from nl_course.views.attention_reading import words
from nl_course.views.wiring import ANSWERS, BYTES, GRAPHS, TEXT, Wiring, compute, draw
from nl_course.views.wiring_measure import CUTS, KINDS, LOOKED_AT, NEAR, measure, model_of

GROUPS = words(encode(TEXT).numpy())
LAST = int(GROUPS.max()) + 1


@pytest.fixture
def view():
    return Wiring(strict=True, **({"model": "untrained"} if "model" in Wiring().settings else {}))


def in_reach(first_byte: int) -> np.ndarray:
    """Which words have a byte at `first_byte` (from 0) or later."""
    return np.array([(np.flatnonzero(GROUPS == g) >= first_byte).any() for g in range(LAST)])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sees_ahead_and_the_output_sees_all_behind(kind):
    seen = measure(kind, False, "nothing", TEXT).seen
    assert list(seen) == [name for name, _, _ in LOOKED_AT[kind]]
    for sizes in seen.values():
        assert np.isnan(sizes[np.triu_indices(LAST, 1)]).all()
    output = list(seen.values())[-1]
    assert (output[np.tril_indices(LAST)] > 0).all()


@pytest.mark.parametrize(("kind", "first"), [("MAC", (len(GROUPS) - 1) // NEAR * NEAR), ("MAG", len(GROUPS) - NEAR)])
def test_without_the_memory_only_the_segment_or_window_is_seen(kind, first):
    seen = measure(kind, False, "memory", TEXT).seen
    assert np.array_equal(list(seen.values())[-1][-1] > 0, in_reach(first))
    memory = [name for name, _, part in LOOKED_AT[kind] if part == "memory"]
    assert all(np.isnan(seen[name]).all() for name in memory)


def test_mac_retrieves_with_the_memory_as_the_segment_began():
    row = measure("MAC", False, "nothing", TEXT).seen["1 retrieved, h"][-1]
    begun = (
        (len(GROUPS) - 1) // NEAR * NEAR
    )  # the last word's own bytes are asked with, those before it in the segment not
    inside = in_reach(begun) & np.array([(np.flatnonzero(GROUPS == g) >= begun).all() for g in range(LAST)])
    assert (row[: LAST - inside.sum()] > 0).all() and row[-1] > 0
    tail = 3  # bytes before the last that the query's convolution reaches
    untouched = inside & ~in_reach(len(GROUPS) - 1 - tail)
    assert untouched.any() and (row[untouched] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_is_where_the_gradient_is_not_zero(kind):
    model = model_of(kind, False)
    layer = deepcopy(model.layers[0].memory).double()
    x = torch.randn(
        1, len(GROUPS), 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    layer(x)[0][0, -1].sum().backward()
    by_word = np.array([x.grad[0, GROUPS == g].abs().sum().item() > 0 for g in range(LAST)])
    assert np.array_equal(by_word, list(measure(kind, False, "nothing", TEXT).seen.values())[-1][-1] > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_add_up_to_the_states_own(kind):
    found, model = measure(kind, False, "nothing", TEXT), model_of(kind, False)
    _, state = model(encode(TEXT)[None])
    assert sum(found.bytes.values()) == state.nbytes == model.layers[0].memory.state_bytes(len(GROUPS))
    assert found.cache == 2 * 32 * len(GROUPS) * 4


def test_a_cut_is_the_layers_own():
    found, model = measure("MAG", False, "nothing", TEXT), model_of("MAG", False)
    given = []
    layer = deepcopy(model.layers[0].memory).double()
    hook = model.layers[0].memory.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    model(encode(TEXT)[None])
    hook.remove()
    x = given[0].double()
    whole, _ = layer(x)
    for part in CUTS[1:]:
        with ablated(layer, without=(part,)):
            change = (layer(x)[0] - whole).norm() / whole.norm()
        assert found.change[part] == pytest.approx(change.item()) and change > 0.01
    assert measure("LMM", False, "memory", TEXT).change == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", ["nothing", "memory"])
def test_draw_shows_those_arrays(kind, cut):
    arrays, figure = compute(kind, cut, LAST), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert list(shown["seen"].y) == list(arrays["seen"])
    logs = np.array(shown["seen"].z, dtype=float)
    expected = np.log10(np.stack(list(arrays["seen"].values())))
    assert np.allclose(logs, expected, atol=1e-4, equal_nan=True)
    assert list(shown["bytes"].x) == [arrays["bytes"][name] for name in BYTES] + [arrays["cache"]]
    assert np.allclose(shown["cut"].x, [100 * share for share in arrays["worth"].values()])
    boxes, arrows = GRAPHS[kind]
    for start, end, _ in arrows:
        touched = "memory" in (boxes[start][3], boxes[end][3])
        dotted = shown[f"{start} to {end}"].line.dash == "dot"
        assert dotted == (touched and cut == "memory" and kind != "LMM")
    assert sum("(cut)" in note.text for note in figure.layout.annotations) == (
        sum(box[3] == "memory" for box in boxes.values()) if cut == "memory" and kind != "LMM" else 0
    )


def drawn(kind: str, cut: str, residual: bool) -> dict[str, str]:
    """The arrows of a picture by name, each solid or dotted."""
    arrays, figure = compute(kind, cut, LAST) | {"residual": residual}, go.Figure()
    draw(arrays, figure)
    return {trace.name: trace.line.dash for trace in figure.data if " to " in (trace.name or "")}


@pytest.mark.parametrize("kind", ["MAC", "MAG", "MAL"])
def test_with_a_residual_path_a_cut_attention_passes_on_what_the_layer_passes_on(kind):
    """MAC and MAG then pass the word on; in MAL the read goes past attention, and through it nothing."""
    arrays = compute(kind, "nothing", LAST, model="untrained")
    assert arrays["residual"] is True
    with_path, without = drawn(kind, "attention", True), drawn(kind, "attention", False)
    solid = {"MAC": ("x to attention", "attention to gate"), "MAG": ("x to attention", "attention to gate")}
    for arrow in solid.get(kind, ()):
        assert with_path[arrow] == "solid"
    if kind == "MAG":
        assert without["x to attention"] == "dot"
    if kind == "MAL":
        assert with_path["memory to o"] == "solid" and "memory to o" not in without
        assert with_path["add to attention"] == "dot" and without["add to attention"] == "solid"


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert "MAC, nothing cut. At word 19, “key?”" in view.readout and "5 output back to word 1, “The”" in view.readout
    view.set(cut="memory")
    assert "4 read again, m: nothing" in view.readout and "5 output back to word 16, “What”" in view.readout
    view.stepper[0].children[0].click()
    assert view.settings["token"] == 18 and "At word 18" in view.readout
    view.set(kind="LMM")
    assert "The memory alone has no other part to cut." in view.readout
    view.set(text="one two three", kind="MAL", cut="nothing")
    assert view.settings["token"] == 3 and view.error == ""


def test_the_prediction_waits_for_the_cut(view):
    assert "Cut the memory" in view.predict(ANSWERS[0])
    view.set(cut="memory")
    assert f'it came out "{ANSWERS[1]}". {view.prediction.why}' in view.verdict


def test_bad_input_is_told_in_words(view):
    view.set(text="x")
    assert "2 to 160 bytes and at most 40 words" in view.error
    with pytest.raises(CourseError, match="word 99 is past the text's end: it has 19"):
        compute("MAC", "nothing", 99)
    with pytest.raises(CourseError, match="architecture 'GRU' is not known"):
        compute("GRU", "nothing", 1)
    with pytest.raises(CourseError, match="cut 'gate' is not known"):
        compute("MAC", "gate", 1)


def test_recorded_models_add_their_recall(tmp_path, monkeypatch):
    for kind in KINDS.values():
        near = {} if kind == "titans" else {"segment" if kind == "mac" else "window": 8}
        torch.manual_seed(1)
        config = ModelConfig(width=16, layers=2, heads=2, hidden=16, memory=kind, options={"chunk": 8, **near})
        save_model(LanguageModel(config), tmp_path / f"checkpoints/needle-{kind}.safetensors")
    monkeypatch.setattr(wiring_measure, "asset", lambda name: tmp_path / name)
    caches = [getattr(wiring_measure, name) for name in ("model_of", "changes", "seen", "bytes_by_part", "recall")]
    try:
        [cached.cache_clear() for cached in caches]
        view = Wiring(strict=True)
        assert view.settings["model"] == "trained on needles" and "learned nothing" not in view.readout
        view.set(worth="recall of a needle")
        shares = view.arrays["worth"]
        assert list(shares) == ["whole", "without memory", "without attention", "without persistent"]
        task = NeedleTask("passkey", length=128)
        model = model_of("MAC", True)
        assert shares["whole"] == needle_accuracy(model, task, rows=8, batch=8)[0].accuracy
        assert (
            not any(ablation_of(layer.memory).changed for layer in model.layers)
            and "Of pass keys in 128 bytes" in view.readout
        )
    finally:
        [cached.cache_clear() for cached in caches]
