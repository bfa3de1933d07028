"""The stage's view and its drawing code: the files join to one program, the replay in the browser is the model's."""

import json
import re
import shutil
import subprocess
import warnings

import numpy as np
import pytest

from nl_course.errors import CourseError
from nl_course.record.stage.reading import read
from nl_course.record.stage.recipe import learn_by_hand
from nl_course.record.stage.take import take
from nl_course.tasks.text import encode
from nl_course.views.stage.bundle import FOLDER, bundle, imported, ordered, page, source
from nl_course.views.stage.widget import Stage, stage_text
from tests.record.test_stage import TEXT, model_of

FILES = sorted(path.name.removesuffix(".js") for path in FOLDER.iterdir() if path.name.endswith(".js"))


@pytest.fixture(scope="module")
def models() -> dict:
    return {"titans": {3: learn_by_hand(model_of())}, "attention": {3: model_of("attention")}}


def run_js(name: str, script: str, given: object) -> object:
    """What `script` leaves in `found`, after the program of js/NAME.js, in node."""
    node = shutil.which("node")
    if node is None:
        warnings.warn("THE STAGE'S SCRIPTS ARE NOT TESTED HERE: there is no node", stacklevel=2)
        pytest.skip("there is no node")
    program = re.sub(r"(?m)^export ", "", bundle(name))
    text = f"const given = {json.dumps(given)};\n{program}\n{script}\nconsole.log(JSON.stringify(found));"
    done = subprocess.run([node, "--input-type=module"], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- files that join ---------------------------------------------------------------------------------------------------
def test_files_join_in_the_order_of_their_imports():
    order = ordered("widget")
    assert set(order) == set(FILES)
    for number, name in enumerate(order):
        assert set(imported(source(name))) <= set(order[:number])


def test_no_two_files_use_one_name():
    owner = {}
    for name in FILES:
        for found in re.findall(r"(?m)^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", source(name)):
            assert owner.setdefault(found, name) == name, found


@pytest.mark.parametrize("name", FILES)
def test_every_import_is_of_a_neighbor_by_name(name):
    lines = [line for line in source(name).splitlines() if line.startswith("import")]
    assert len(lines) == len(imported(source(name)))
    for names, neighbor in re.findall(r'import \{([^}]*)\} from "\./(\w+)\.js"', source(name)):
        for wanted in names.split(","):
            assert re.search(rf"(?m)^export (function|const) {wanted.strip()}\b", source(neighbor)), wanted


def test_nothing_is_fetched():
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(", bundle("widget"))
    assert len(bundle("widget")) < 80_000


# -- what is computed in the browser -----------------------------------------------------------------------------------
@pytest.mark.parametrize("memory", ["titans", "gated-delta", "self-modifying"])
def test_the_browser_replays_the_models_trace(models, memory):
    model = models["titans"][3] if memory == "titans" else model_of(memory)
    form = take(TEXT, {memory: {3: model}}, outer=False)
    heads = form["memories"][0]["checkpoints"][0]["heads"]
    script = """
    const found = given.map((form) => {
      const run = replay(form);
      return { last: [...run.W(run.head.tokens)], error: run.writes.map((w) => [...w.error]),
        before: run.writes.map((w) => w.before), after: run.writes.map((w) => w.after) };
    });"""
    reading = read(model, encode(TEXT.text))
    for replayed, head in zip(run_js("replay", script, heads), reading.heads, strict=True):
        assert np.abs(np.array(replayed["last"]) - head.matrices()[-1].ravel()).max() < 5e-3
        assert np.abs(np.array(replayed["error"]) - head.error).max() < 5e-3
        assert np.abs(np.array(replayed["before"]) - head.loss_before).max() < 1e-2
        assert np.abs(np.array(replayed["after"]) - head.loss_after).max() < 1e-2


def test_half_precision_is_unpacked_exactly():
    numbers = np.array([0, -0.5, 1, 65504, 6e-8, 0.1, -1234.5], dtype="<f2")
    bits = [int(number) for number in numbers.view("<u2")]
    assert run_js("numbers", "const found = given.map(half);", bits) == [float(number) for number in numbers]


def test_reading_slows_down_for_the_fact_and_ends():
    script = """
    const run = { writes: [1, 0.1, 0, 1, 0.1, 0.1].map((moved) => ({ moved })), mostMoved: 1 };
    const take = { words: [[0, 1], [2, 3], [4, 5]], fact: { first: 2, last: 3 } };
    const seconds = durations(take, run, 10);
    const places = [0, 0.06, 0.2, 9].map((s) => at(seconds, 0, s));
    const slow = [0, 1, 2, 3, 4, 5].map((t) => slowed(take, t));
    const found = { seconds, places, slow, parts: [0, 0.5, 1].map(parts) };"""
    found = run_js("clock", script, None)
    # From the first byte of the fact to the first byte after it, and a larger write takes longer.
    assert found["slow"] == [False, False, True, True, True, False]
    assert found["seconds"] == pytest.approx([0.05, 0.05, 0.6, 1.1, 0.65, 0.05])
    assert [place["t"] for place in found["places"]] == [0, 1, 2, 5] and found["places"][-1]["over"]
    assert 0 < found["places"][2]["phase"] < 1
    assert set(found["parts"][0].values()) == {0} and set(found["parts"][2].values()) == {1}


def test_turned_gates_change_one_write_as_they_say():
    script = """
    const head = { m: 1, f: 1, errors: "before", key: Float32Array.of(1), value: Float32Array.of(1),
      step: [0.5], momentum: [0.5], keep: [1] };
    const W = Float64Array.of(0), S = Float64Array.of(0.2);
    const found = [AS_LEARNED, { step: 2, momentum: 1, keep: 1 }, { step: 1, momentum: 0, keep: 1 }]
      .map((gains) => writeOnce(head, 0, W, S, gains).W[0]);"""
    assert run_js("replay", script, None) == pytest.approx([0.6, 1.1, 0.5])


def test_a_cut_leaves_what_comes_after_it():
    script = """
    const walk = { value: [1, 0, 2], key: [0, 0, 1], gates: [0, 0, 0], value_weights: [3, 2, 2, 0],
      key_weights: [1, 1, 1, 0], start: 7 };
    const found = [0, 1, 3].map((cut) => leftBy(walk, cut));"""
    whole, some, none = run_js("outer", script, None)
    assert whole == {"reached": 2, "value": 3, "key": 1, "start": 7}
    assert some["reached"] == 1 and some["start"] == 0 and none["reached"] == 0


# -- the view ----------------------------------------------------------------------------------------------------------
def test_a_wish_is_a_new_take(models):
    stage = Stage(models=models)
    before = stage.screen.take
    assert stage.screen.live and "bytes, one write each" in repr(stage) and "attention" in stage.readout
    stage.screen.wish = {"kind": "text", "data": {"text": "One two", "key": "abcde", "answer": "99", "place": 3}}
    assert stage.screen.take["text"] == "One\n<abcde:99>\ntwo" and not stage.error
    stage.turn(step=0.5)
    gates = stage.screen.take["memories"][0]["checkpoints"][0]["heads"][0]["step"]
    assert gates != before["memories"][0]["checkpoints"][0]["heads"][0]["step"]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (lambda stage: stage.set(key="a b"), "without spaces"),
        (lambda stage: stage.set(text="x" * 500), "2 to 400 bytes"),
        (lambda stage: stage.turn(keep=2), "keep must be at most 1"),
    ],
)
def test_a_bad_wish_leaves_the_picture_and_says_why(models, wish, said):
    stage = Stage(models=models)
    before = stage.screen.take
    wish(stage)
    assert said in stage.error and stage.screen.take is before
    stage.turn()
    assert not stage.error


def test_a_recording_refuses_wishes(models):
    stage = Stage(recording=take(TEXT, models, outer=False))
    assert not stage.screen.live
    stage.turn(step=2)
    assert "this is a recording" in stage.error


def test_the_stage_needs_a_memory_that_it_can_draw(models):
    with pytest.raises(CourseError, match="one matrix each"):
        Stage(models={"attention": models["attention"]})
    with pytest.raises(CourseError, match="no setting"):
        Stage(models=models).set(colour="red")


def test_other_gates_than_those_of_titans_are_not_turned(models):
    stage = Stage(models={"gated-delta": {3: model_of("gated-delta")}, **models})
    stage.turn(step=0.5)
    assert "only the gates of Titans" in stage.error


def test_an_axis_of_a_gate_holds_all_its_numbers():
    found = run_js("gates", "const found = [[0.1, 0.4], [0.9995, 1], [0.96, 1], [0, 0]].map(gateRange);", None)
    assert found == [[0, 0.4], [0.999, 1], [0.96, 1], [0, 0.01]]


def test_a_fact_stands_between_words():
    assert stage_text("One two three", "k", "v", 5).text == "One two\n<k:v>\nthree"
    assert stage_text("One two", "k", "v", 0).text == "<k:v>\nOne two"
    assert stage_text("One two", "k", "v", 99).text == "One two\n<k:v>"


def test_a_page_of_its_own_holds_the_take(models):
    text = page(json.dumps(take(TEXT, models, outer=False)))
    assert (
        "mount(document.getElementById" in text and "<crate:72>" in text and "export" not in text.split("</style>")[0]
    )
