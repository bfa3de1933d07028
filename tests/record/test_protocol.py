"""The protocol of comparisons: when a loss has settled, how a rate is searched, parts that two processes share."""

import json
import platform

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel
from nl_course.record import parts, recipe
from nl_course.record.protocol import Comparison, Trial, settled
from nl_course.record.provenance import read_config
from nl_course.record.seeds import difference
from nl_course.tasks.targets import IGNORED
from nl_course.training import Diverged, TrainingConfig
from nl_course.training.run_lock import RunLock

MODEL = {"vocab": 16, "width": 8, "layers": 1, "heads": 1, "parameters": 2500}


def lines(*losses: float) -> list[dict]:
    return [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]


# -- settled -----------------------------------------------------------------------------------------------------------
def test_a_loss_has_settled_by_its_last_two_tenths():
    falling = settled(lines(*[9.0] * 16, 2.0, 2.0, 1.0, 1.0))
    assert falling == {"loss": 1.0, "before": 2.0, "fell": 0.5, "settled": False}
    assert settled(lines(*[9.0] * 16, 2.0, 2.0, 1.92, 1.92))["settled"]  # by 4 %
    assert not settled(lines(*[9.0] * 16, 2.0, 2.0, 1.88, 1.88))["settled"]  # by 6 %
    assert settled(lines(*[9.0] * 16, 0.1, 0.1, 0.01, 0.01))["settled"]  # near zero
    rising = settled(lines(*[9.0] * 16, 1.0, 1.0, 2.0, 2.0))
    assert rising["fell"] == -1 and rising["settled"]


def test_a_run_too_short_for_two_tenths_has_not_settled():
    assert settled(lines(3.0)) == {"loss": 3.0, "before": None, "fell": None, "settled": False}
    assert settled(lines(4.0, 3.0))["fell"] == 0.25
    with pytest.raises(CourseError, match="without a logged step"):
        settled([])


# -- seeds in pairs ----------------------------------------------------------------------------------------------------
def test_a_difference_is_taken_seed_by_seed():
    found = difference([1.0, 5.0, 9.0], [0.0, 3.0, 6.0])  # differences 1, 2, 3: standard deviation 1
    assert found["mean"] == 2 and found["values"] == [1, 2, 3]
    assert (found["low"], found["high"]) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert "low" not in difference([1.0], [0.0])
    for first, second in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(CourseError, match="two equal numbers of runs"):
            difference(first, second)


# -- the search --------------------------------------------------------------------------------------------------------
class Tiny(Comparison):
    """A part is (memory, seed); it is asked what the config says."""

    name = "frontier"  # has a config; the test gives its own
    drawn: list[int]

    def trial(self, rate, seed, memory):
        training = TrainingConfig(
            steps=4, batch_size=2, length=8, learning_rate=rate, warmup=1, save_every=0, evaluate_every=0, seed=seed
        )

        def data(step):
            self.drawn.append(step)
            tokens = torch.randint(16, (2, 8), generator=torch.Generator().manual_seed(100 * seed + step))
            return tokens, tokens.roll(1, 1).masked_fill(tokens == 0, IGNORED)

        return Trial(parts.sized(MODEL, memory, {"memory": memory}), training, data, taught={"roll": 1})

    def identity(self, memory, seed):
        return {**self.reported(memory, seed).identity(), "asked": self.config["asked"]}

    def make(self, folder, memory, seed):
        model, run = self.trained(folder, memory, seed)
        print(f"part: {memory} {seed}")
        weight = model.embedding.weight.sum().item()
        return {"asked": self.config["asked"], "seed": seed, "weight": weight, "rate": run.config.learning_rate}


def tiny(folder, **changes) -> Tiny:
    config = {"search": {"rates": [1e-5, 0.03, 1e-3], "seed": 100}, "asked": 1, **changes}
    recipe = Tiny(config=config, folder=folder)
    recipe.drawn = []
    return recipe


def test_the_rate_with_the_lowest_loss_is_taken_and_every_searched_loss_kept(tmp_path):
    comparison = tiny(tmp_path)
    found = comparison.search("linear")
    assert [row["rate"] for row in found["tried"]] == [1e-5, 0.03, 1e-3]
    assert found["rate"] == min(found["tried"], key=lambda row: row["loss"])["rate"] == 0.03
    assert found["at_edge"] and found["seed"] == 100
    assert comparison.part("linear", 0)["rate"] == 0.03
    files = sorted(file.name for file in (tmp_path / "search").glob("*.json"))
    assert files == ["linear-rate-0.001.json", "linear-rate-0.03.json", "linear-rate-1e-05.json"]
    again = tiny(tmp_path)
    assert again.search("linear") == found and again.drawn == []


def test_a_rate_between_others_is_at_no_edge_and_one_that_diverges_is_not_taken(tmp_path, monkeypatch):
    losses = {1e-5: 3.0, 1e-3: 2.0, 0.03: None}

    def trained(shape, data, training, folder, device, watch, prepare):
        if losses[training.learning_rate] is None:
            raise Diverged("no numbers", 0)
        metrics = [{"step": i, "loss": losses[training.learning_rate], "seconds": 1.0} for i in range(4)]
        return None, type("Run", (), {"metrics": metrics})

    monkeypatch.setattr(parts, "trained", trained)
    found = tiny(tmp_path).search("linear")
    assert found["rate"] == 1e-3 and not found["at_edge"]
    assert [row["loss"] for row in found["tried"]] == [3.0, None, 2.0]
    losses.update({1e-5: None, 1e-3: None})
    with pytest.raises(CourseError, match="'delta' diverges at every rate"):
        tiny(tmp_path).search("delta")


def test_the_seed_of_the_search_is_not_reported_and_one_rate_needs_no_search(tmp_path):
    with pytest.raises(CourseError, match="seed 100 serves the search"):
        tiny(tmp_path).part("linear", 100)
    one = tiny(tmp_path, search={"rates": [0.01]})
    assert one.search("linear") == {"rate": 0.01, "at_edge": False, "seed": None, "tried": []}
    assert one.drawn == [] and one.part("linear", 100)["rate"] == 0.01


def test_searches_come_first_and_each_once(tmp_path, capsys):
    keys = [("linear", 0), ("linear", 1), ("delta", 0)]
    made = tiny(tmp_path).searched_and_made(keys)
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["search"] * 6 + ["part"] * 3
    assert list(made) == keys and made["linear", 1]["seed"] == 1


def test_what_is_asked_later_does_not_train_again(tmp_path):
    first = tiny(tmp_path)
    before = first.part("linear", 0)
    later = tiny(tmp_path, asked=2)
    after = later.part("linear", 0)
    assert (before["asked"], after["asked"]) == (1, 2) and after["weight"] == before["weight"]
    assert first.drawn and later.drawn == []


# -- parts that two processes share ------------------------------------------------------------------------------------
class Counted(recipe.Recipe):
    name = "frontier"

    def identity(self, key):
        return {"key": key}

    def make(self, folder, key):
        return {"key": key}


def test_a_part_that_another_process_makes_is_left_to_it(tmp_path, monkeypatch, capsys):
    counted = Counted(config={}, folder=tmp_path)
    other = RunLock(tmp_path, "1.lock")
    other.take()
    order = []

    def wait(_):
        order.extend(sorted(int(file.stem) for file in tmp_path.glob("*.json")))
        other.release()

    monkeypatch.setattr(recipe.time, "sleep", wait)
    made = counted.made([(1,), (2,), (3,)])
    assert [part["key"] for part in made] == [1, 2, 3] and order == [2, 3]
    assert "waits" in capsys.readouterr().out and not list(tmp_path.glob("*.lock"))


def test_a_claim_ends_with_the_part_also_where_making_it_fails(tmp_path, monkeypatch):
    counted = Counted(config={}, folder=tmp_path)
    monkeypatch.setattr(counted, "make", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        counted.part(1)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    # The claim of a process that has ended: no such number is given to a process.
    stale = {"process": 2**30, "started": 1.0, "host": platform.node(), "since": "2026-01-01 00:00"}
    (tmp_path / "1.lock").write_text(json.dumps(stale))
    assert counted.part(1)["key"] == 1


def test_the_path_of_a_model_is_named():
    shape = parts.sized(MODEL, "linear", {"memory": "linear"})
    assert parts.path_of(parts.build(shape)) == "auto"
    assert parts.path_of(LanguageModel(shape, path="reference")) == "reference"


@pytest.mark.parametrize("name", ["frontier", "state-tracking", "sceptic", "hope", "long-text", "needle", "optimizers"])
def test_every_comparison_searches_from_a_seed_that_it_does_not_report_and_has_three(name):
    config = read_config(name)
    models = [model for model in config.get("models", {}).values() if "seeds" in model]  # the frontier's
    groups = [config, *config.get("tasks", {}).values(), *models, *config.get("arms", {}).values()]
    seeds = [group["seeds"] for group in groups if "seeds" in group]
    rates = [group["rates"] for group in (*groups, config["search"]) if "rates" in group]
    assert seeds and all(len(set(some)) >= 3 and config["search"]["seed"] not in some for some in seeds)
    assert rates and all(len(some) == 3 and some == sorted(some) for some in rates)
    assert "learning_rate" not in config.get("training", {})
