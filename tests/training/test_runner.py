"""The runner: a paused run is the unbroken one, errors are said, every choice trains. No test waits for a clock."""

from dataclasses import asdict

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.training.run_table import read_run
from nl_course.training.runner import CHOICES, CLOCKED, TASKS, Plan, Runner

SHORT = dict(steps=6, batch_size=2, length=32)


def losses(runner):
    return [line["loss"] for line in runner.metrics]


def test_step_by_step_or_at_once_it_is_the_same_run(tmp_path):
    whole, broken = (Runner(Plan("linear", **SHORT), tmp_path / name) for name in ("whole", "broken"))
    assert whole.status == "ready" and whole.step(6) == "done"
    assert broken.step(2) == "paused" and broken.done == 2
    again = Runner(Plan.of(read_run(tmp_path / "broken").settings), tmp_path / "broken")
    assert (again.status, again.done) == ("paused", 2)
    assert again.step(3) == "paused" and again.step(9) == "done"
    assert losses(again) == losses(whole) and len(losses(whole)) == 6
    weights = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert again.step() == "done" and Runner(again.plan, again.folder).status == "done"


def test_in_its_thread_it_pauses_where_it_is_told_to(tmp_path):
    """The pause is asked for by a listener, within a step: no sleeping, no race."""
    here, runner = Runner(Plan("linear", **SHORT), tmp_path / "here"), Runner(Plan("linear", **SHORT), tmp_path / "r")
    seen = []

    def listen():
        seen.append((runner.status, runner.done))
        if runner.done == 3:
            runner.pause()

    runner.listeners.append(listen)
    runner.start()
    assert runner.wait() == "paused" and runner.done == 3
    assert seen == [("running", 0), ("running", 1), ("running", 2), ("running", 3), ("paused", 3)]
    runner.listeners.clear()
    runner.start()
    assert runner.wait() == "done" and here.step(6) == "done"
    assert losses(runner) == losses(here)
    runner.start()
    assert runner.status == "done"


def test_what_goes_wrong_in_the_thread_is_said(tmp_path):
    runner = Runner(Plan("linear", **{**SHORT, "learning_rate": 1e30}), tmp_path / "run")
    runner.start()
    assert runner.wait() == "failed" and "diverged" in runner.error
    other = Runner(Plan("linear", **SHORT), tmp_path / "other")
    other.step(1)
    strange = Runner(Plan("linear", **{**SHORT, "seed": 1}), tmp_path / "other")
    assert strange.step() == "failed" and "was started with" in strange.error
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert Runner(Plan("linear", **SHORT), blocked / "run").step() == "failed"


@pytest.mark.parametrize("memory", CHOICES)
def test_every_choice_trains(tmp_path, memory):
    plan = Plan(memory, **{**SHORT, "steps": 1})
    runner = Runner(plan, tmp_path)
    assert runner.step() == "done", runner.error
    summary = read_run(tmp_path)
    assert summary.memory == memory and summary.parameters == plan.build().parameter_count()
    assert 4 < summary.loss < 7 and runner.held_before > 0


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_learnt_from_and_looked_at(tmp_path, task):
    runner = Runner(Plan("attention", task=task, **{**SHORT, "length": 48}), tmp_path)
    assert runner.step(6) == "done", runner.error
    looked = [line for line in runner.metrics if "held_out_loss" in line]
    assert len(looked) == 6 and ("answered" in looked[0]) == (task != "text")
    assert read_run(tmp_path).task == task


def test_names_tell_plans_apart():
    plans = [Plan(m, s, t) for m in ("linear", "hope") for s in ("small", "micro") for t in TASKS]
    plans += [Plan(seed=1), Plan(steps=10), Plan(learning_rate=1e-2), Plan(length=64)]
    assert len({plan.name for plan in plans}) == len(plans)
    assert Plan("hope", "micro", seed=2).name == "hope-micro-text-seed-2"


def test_a_memory_with_its_own_convolution_gets_none_in_front_and_an_earlier_plan_keeps_it():
    assert [Plan(name).model.conv for name in ("attention", "linear", "titans", "mag", "hope")] == [4, 4, 0, 0, 0]
    earlier = Plan("mag", earlier=True)
    assert earlier.model.conv == 4 and earlier.model.options["attention_residual"] is False
    assert Plan.of({"plan": {"memory": "mag"}}) == earlier and earlier.name == Plan("mag").name
    assert Plan.of({"plan": asdict(Plan("mag"))}) == Plan("mag")
    assert Plan("linear", earlier=True) == Plan("linear")  # its model is as it was


def test_bad_choices_are_named():
    with pytest.raises(CourseError, match="linaer"):
        Plan("linaer")
    with pytest.raises(CourseError, match="steps"):
        Plan(steps=0)
    with pytest.raises(CourseError, match="not started from a plan"):
        Plan.of({"steps": 3})


@pytest.mark.parametrize("value", [None, True, -5, float("nan"), float("inf"), "../../x", [], {}, {"a": 1}])
def test_whatever_a_file_says_of_a_plan_is_a_plan_or_refused(value):
    names = [name for name in (*asdict(Plan()), "unknown") if not (name == "earlier" and value is True)]
    plans = [value] + [{**asdict(Plan()), name: value} for name in names]
    for plan in plans:
        if plan == {}:  # all defaults
            continue
        with pytest.raises(CourseError) as refused:
            Plan.of({"plan": plan})
        assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["attention", *CLOCKED])
def test_an_estimate_stands_before_the_run(memory):
    plan = Plan(memory, **SHORT)
    before = plan.estimate()
    assert before.parameters == plan.build().parameter_count() and before.seconds is None
    assert before.tokens == 6 * 2 * 32
    least, most = plan.estimate(tokens_per_second=1000.0).seconds
    assert least < before.tokens / 1000 < most
