"""The recipe of HOPE: equal models, parts that are kept, what is held still, and the later facts."""

import json

import pytest
import torch
from torch import nn

from nl_course.errors import CourseError
from nl_course.memories.ablations.switches import ablation_of
from nl_course.model import LanguageModel, ModelConfig
from nl_course.record import hope as recipe
from nl_course.record import hope_measures as measures
from nl_course.record import parts, record
from nl_course.tasks.recall import mqar
from nl_course.training.checkpoint import load_model


@pytest.mark.slow
def test_a_quick_run_writes_all_and_a_second_one_goes_on_from_its_parts(tmp_path, monkeypatch):
    *checkpoints, run = record("hope", tmp_path, quick=True)
    found, config = json.loads(run.read_text()), recipe.settings(quick=True)
    assert [c.name for c in checkpoints] == [f"hope-{task}.safetensors" for task in config["tasks"]]
    for checkpoint, (task, asked) in zip(checkpoints, config["tasks"].items(), strict=True):
        models = found["tasks"][task]
        assert list(models) == list(asked["models"])
        assert load_model(checkpoint).parameter_count() == models["hope"]["parameters"]
        for name, model in models.items():
            assert abs(model["parameters"] / asked["parameters"] - 1) < parts.TOLERANCE
            assert [seed["seed"] for seed in model["seeds"]] == asked["seeds"]
            held = set(model["seeds"][0]["found"]["frozen"])
            still = set(measures.FROZEN) - {"nothing"} | ({"levels"} if task == "text" else set())
            still -= {"retention"} if task == "parity" else set()  # it has no memory for it there
            assert held == (still if name == "hope" else set())
            states = [s["bytes"] for s in model["state"]]
            assert states[0] < states[1] if name == "attention" else task == "text" or states[0] == states[1]
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("hope", tmp_path, quick=True)[-1].read_text())["tasks"] == found["tasks"]


def test_models_of_a_task_are_equal_in_size_and_names_are_checked(tmp_path):
    config = recipe.settings()
    for about in config["tasks"].values():
        shapes = [parts.sized(about, name, spec) for name, spec in about["models"].items()]
        counts = [parts.build(shape).parameter_count() for shape in shapes]
        assert max(counts) / min(counts) < 1 + 2 * parts.TOLERANCE
    with pytest.raises(CourseError, match="more than the 100 asked"):
        parts.sized({**about, "parameters": 100}, "hope", about["models"]["hope"])
    with pytest.raises(CourseError, match="parity"):
        recipe.Hope(folder=tmp_path).part("party", "hope", 0)


def test_memories_are_held_still_and_let_go():
    torch.manual_seed(0)
    options = {"chunk": 2, "kind": "linear", "max_step": 1.0, "start_retention": 0.5}
    model = LanguageModel(ModelConfig(16, 8, 1, 1, 8, "self-modifying", options))
    tokens, layer = torch.randint(16, (1, 12)), model.layers[0].memory
    plain = model(tokens)[0]
    with measures.held_still(model, ("key", "query")) as possible:
        assert possible and ablation_of(layer).frozen == ("key",)
        assert not torch.allclose(model(tokens)[0], plain)
    assert ablation_of(layer).frozen == () and torch.equal(model(tokens)[0], plain)
    rows = measures.conditions(model, lambda m: ablation_of(m.layers[0].memory).frozen)
    assert rows["all four"] == ("key", "value", "step", "retention") and rows["nothing"] == ()
    other = LanguageModel(ModelConfig(16, 8, 1, 1, 8, "delta"))
    assert list(measures.conditions(other, lambda m: 1)) == ["nothing"]


class Notebook(nn.Module):
    """A reader that knows a pair after it was written `needs` times, and until then says 0."""

    def __init__(self, needs: int, vocab: int):
        super().__init__()
        self.needs, self.vocab = needs, vocab

    def init_state(self, rows):
        return [[] for _ in range(rows)]

    def forward(self, tokens, state):
        state = [list(seen) + row.tolist() for seen, row in zip(state, tokens)]
        logits = torch.zeros(len(tokens), tokens.shape[1], self.vocab)
        for row, seen in enumerate(state):
            pairs = list(zip(seen[::2], seen[1::2]))
            said = [v for k, v in pairs if k == seen[-1]]
            logits[row, -1, said[-1] if len(said) >= self.needs else 0] = 9.0
        return logits, state


@pytest.mark.parametrize("needs", [1, 2, 3])
def test_later_facts_count_the_writes_that_a_fact_needs(needs):
    about = {"fact_rows": 3, "facts": 6, "vocab": 32, "writes": 2, "resamples": 20}
    found = measures.later_facts(Notebook(needs, 32), about)
    assert found["needed"] == [needs] * 6 and found["late_less_early"]["mean"] == 0
    assert [row == [0.0, float(needs == 1), float(needs <= 2)] for row in found["right"]] == [True] * 6
    assert "error_left" not in found
    assert mqar(3, 24, 6, 32, filler="blank", seed=0).pairs == 6
