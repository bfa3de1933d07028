"""What recipes share: models equal in size, their starts, and parts that are kept."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedConfig, NestedLanguageModel
from nl_course.record import parts
from nl_course.training import TrainingConfig

ABOUT = {"vocab": 256, "width": 64, "layers": 2, "heads": 2, "parameters": 200_000}
SPECS = {
    "local": {"memory": "ttt-linear", "conv": 4},
    "continuum": {"memory": "delta", "levels": [16, 32], "rate": 0.02},
    "e2e": {"e2e": {"window": 32, "chunk": 16}},
}


@pytest.mark.parametrize("name", SPECS)
def test_any_kind_of_model_comes_out_at_the_size_asked_for(name):
    shape = parts.sized(ABOUT, name, SPECS[name])
    model = parts.build(shape)
    assert isinstance(shape, ModelConfig if name == "local" else NestedConfig)
    assert type(model) is (LanguageModel if name == "local" else NestedLanguageModel)
    assert abs(model.parameter_count() / 200_000 - 1) < parts.TOLERANCE
    wider = {"local": shape.hidden if name == "local" else 0}.get(name) or shape.levels[0][0].hidden
    assert parts.hidden_of(shape) == wider > 1


def test_a_spec_may_have_a_width_of_its_own():
    shape = parts.sized(ABOUT, "narrow", {"memory": "attention", "width": ABOUT["width"] // 2, "heads": 1})
    assert (shape.width, shape.heads, shape.layers) == (ABOUT["width"] // 2, 1, ABOUT["layers"])
    assert abs(parts.build(shape).parameter_count() / ABOUT["parameters"] - 1) < parts.TOLERANCE


def test_a_size_that_cannot_be_met_is_refused():
    with pytest.raises(CourseError, match=r"'local' alone has .* more than the 20,000 asked for"):
        parts.sized({**ABOUT, "parameters": 20_000}, "local", SPECS["local"])
    sizes = {"vocab": 8, "width": 4, "layers": 8, "heads": 1}
    narrow, wider = (LanguageModel(ModelConfig(**sizes, hidden=h)).parameter_count() for h in (1, 2))
    with pytest.raises(CourseError, match="'a' would have"):  # between two widths, which are more than 4% apart
        parts.sized({**sizes, "parameters": (narrow + wider) // 2}, "a", {"memory": "attention"})


def test_linear_layers_start_larger_and_the_memories_starts_stay():
    torch.manual_seed(0)
    model = parts.build(parts.sized(ABOUT, "gated-delta", {"memory": "gated-delta", "options": {"conv": 4}}))
    before = {name: p.clone() for name, p in model.named_parameters()}
    parts.begin(model)
    after = dict(model.named_parameters())
    assert after["layers.0.memory.query.weight"].std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert after["layers.1.memory.output.weight"].std().item() == pytest.approx(64**-0.5 / 2, rel=0.05)
    for name in ("layers.0.memory.conv.weight", "layers.0.memory.log_rate"):
        assert torch.equal(after[name], before[name])


def test_levels_start_like_linear_layers_and_write_less():
    torch.manual_seed(0)
    model = parts.build(parts.sized(ABOUT, "continuum", SPECS["continuum"]))
    parts.begin(model)
    level = next(module for module in model.modules() if isinstance(module, parts.Level))
    assert level.first.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert level.last.std().item() == pytest.approx(level.last.shape[0] ** -0.5 / 2, rel=0.05)


def test_a_part_is_made_once_and_again_when_more_is_asked(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"answer": len(made), "pair": (1, 2)}

    path = tmp_path / "deep" / "part.json"
    first = parts.kept(path, {"seed": 1}, make)
    assert first["pair"] == [1, 2] and parts.kept(path, {"seed": 1}, make) == first == json.loads(path.read_text())
    assert parts.kept(path, {"seed": 2}, make)["answer"] == 2 and len(made) == 2


def test_rows_of_recall_are_fresh_at_each_step_and_ask_only_for_values():
    data = parts.recall_rows([2, 4], 32, TrainingConfig(steps=4, batch_size=3, length=24, seed=1))
    for step, pairs in ((0, 2), (1, 4), (2, 2)):
        inputs, targets = data(step)
        assert inputs.shape == targets.shape == (3, 24) and torch.equal(data(step)[0], inputs)
        assert int((targets != parts.IGNORED).sum()) == 3 * pairs
    assert not torch.equal(data(0)[0], data(2)[0])
