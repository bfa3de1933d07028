"""The recipe of the sceptic's lab: its rows, its parts, and what it measures inside a memory."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.record import parts, record
from nl_course.record import sceptic as recipe
from nl_course.record import sceptic_measures as measures
from nl_course.record.sizes import settings
from nl_course.training.checkpoint import load_model

OPTIONS = {
    "ttt-mlp": {"mini_batch": 4},
    "titans": {"chunk": 4, "persistent": 0},
    "self-modifying": {"kind": "linear", "chunk": 4, "max_step": 1.0},
}


def model(memory: str) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(16, 16, 1, 2, 8, memory, OPTIONS[memory])).double()


@pytest.mark.slow
def test_a_quick_run_writes_all_and_a_second_one_goes_on_from_its_parts(tmp_path, monkeypatch):
    *checkpoints, run = record("sceptic", tmp_path, quick=True)
    found, config = json.loads(run.read_text()), settings("sceptic", quick=True)
    asked = {(r["task"], r["model"], r["trained_with"], r["asked_with"]): r for r in found["rows"]}
    assert len(asked) == len(found["rows"])
    assert ("recall", "titans", "as trained", "no momentum") in asked
    assert ("recall", "ttt-mlp", "sign flipped", "sign flipped") in asked
    assert ("recall", "ttt-mlp", "as trained", "no momentum") not in asked
    assert ("text", "ttt-linear", "as trained", "8 steps") in asked
    for (task, name, trained_with, asked_with), row in asked.items():
        assert len(row["loss"]["by_seed"]) == len(config["tasks"][task]["seeds"])
        if task == "recall":
            assert row["loss"]["low"] <= row["loss"]["mean"] <= row["loss"]["high"]
        assert ("recall" in row) == (task == "recall")
        assert ("inner" in row) == (name not in ("delta", "linear", "attention"))
        assert ("distance" in row) == ("inner" in row and asked_with in ("as trained", "sign flipped") and (
            asked_with == "as trained" or asked_with == trained_with
        ))  # fmt: skip
    names = [c.stem for c in checkpoints]
    assert "sceptic-text-self-modifying" in names and "sceptic-recall-titans" in names and len(names) == 8
    assert load_model(checkpoints[0]).parameter_count() == found["models"]["recall"]["ttt-linear"]["parameters"]
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("sceptic", tmp_path, quick=True)[-1].read_text())["rows"] == found["rows"]


def test_models_of_a_task_are_equal_in_size_and_names_are_checked(tmp_path):
    config = settings("sceptic")
    for task, about in config["tasks"].items():
        counts = [parts.build(recipe.shape_of(config, task, name)).parameter_count() for name in about["models"]]
        assert max(counts) / min(counts) < 1 + 2 * parts.TOLERANCE
    sceptic = recipe.Sceptic(folder=tmp_path)
    with pytest.raises(CourseError, match="recall"):
        sceptic.part("recal", "titans", "as trained", 0)
    with pytest.raises(CourseError, match="titans"):
        sceptic.part("text", "titan", "as trained", 0)
    with pytest.raises(CourseError, match="sign flipped"):
        sceptic.part("recall", "titans", "sign", 0)
    for name, options in config["switches"].items():
        assert len(recipe.ablation_named(config["switches"], name).changed) == len(options)


def test_an_interval_is_students_and_a_run_away_seed_leaves_none():
    found = recipe.interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["high"] == pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3)
    assert recipe.interval([1.0])["low"] is None
    assert recipe.interval([1.0, None])["mean"] is None
    assert measures.number(float("nan")) is None and measures.number(torch.tensor(1.23456)) == 1.2346


@pytest.mark.parametrize("memory", OPTIONS)
def test_a_models_chunks_are_the_memorys_own(memory):
    one, tokens = model(memory), torch.randint(16, (2, 10), generator=torch.Generator().manual_seed(1))
    every_chunk = list(measures.chunks(one, tokens))
    assert len(every_chunk) == 2 and every_chunk[0].q.shape == (2, 2, 4, 8)
    torch.testing.assert_close(every_chunk[0].after(every_chunk[1].k), every_chunk[1].before(every_chunk[1].k))
    whole = every_chunk[0].v.square().sum() + every_chunk[1].v.square().sum()
    errors = sum((chunk.before(chunk.k) - chunk.v).square().sum() for chunk in every_chunk)
    assert measures.inner_losses(one, tokens)["before_k"] == pytest.approx(float(errors / whole), abs=1e-3)


def test_the_distance_of_gaussians():
    x = torch.randn(4, 2, 5000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert measures.frechet(x, x) < 1e-6
    away = torch.tensor([1.0, 0, 0])
    assert measures.frechet(x, x + away) == pytest.approx(1 / (3 + 0.5), abs=0.02)  # |m|^2 over the mean square
    assert measures.frechet(x, 2 * x) == pytest.approx(3 / (3 * 5 / 2), abs=0.02)  # (2 - 1)^2 a dimension


def test_a_questions_own_pair_is_found():
    about = {"kind": "recall", "vocab": 32, "asked_rows": 3, "asked_pairs": 4, "training": {"length": 32}}
    task = measures.questions_of(about)
    k = torch.zeros(3, 1, 32, 32, dtype=torch.float64)
    q = torch.zeros_like(k)
    k[:, 0] = torch.nn.functional.one_hot(task.tokens, 32).roll(1, dims=1)  # each value's place knows the key before it
    q[:, 0] = torch.nn.functional.one_hot(task.tokens, 32)
    assert measures.asked_and_written(q, k, task) == {"cosine_asked": 1.0, "cosine_others": 0.0}
