"""The table of names that older files hold: `nl_course.renamed`."""

import json
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nl_course.memories as memories
import nl_course.model as models
import nl_course.nested as nested
import nl_course.suite.template  # noqa: F401 (defines a kind of state)
import nl_course.training as training
from nl_course import renamed
from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, State
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import LevelConfig, NestedConfig
from nl_course.optimizers import OPTIMIZERS
from nl_course.renamed import DROPPED_IF_EMPTY, Gone, parameter_names, translate, translate_model
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import load_model, read_info, save_model
from nl_course.training.run_table import read_run
from nl_course.training.runner import Plan

STREAM = torch.arange(4000) * 7 % 11


@pytest.fixture
def table(monkeypatch):
    """A table of this test's own instead of the real one, to be filled with rows."""
    rows: dict = {}
    monkeypatch.setattr(renamed, "RENAMED", rows)
    monkeypatch.setattr(renamed, "BEFORE", {})
    return rows


@pytest.fixture
def classes(monkeypatch):
    """The same for the names of classes."""
    names: dict[str, str] = {}
    monkeypatch.setattr(renamed, "CLASSES", names)
    return names


# -- the table of today ------------------------------------------------------------------------------------------------
def test_memories_and_optimizers_are_known_by_their_classes():
    assert {name: config.__name__ for name, (_, config) in MEMORIES.items()} == renamed.MEMORY_CONFIGS
    assert {name: kind.__name__ for name, kind in OPTIMIZERS.items()} == renamed.OPTIMIZER_CLASSES


def names_of(owner: str) -> set[str] | None:
    """The fields of a state or a config of today, None for other classes."""
    kind = State._kinds.get(owner)
    for home in (memories, models, nested, training, training.runner):
        kind = kind or getattr(home, owner, None)
    return {f.name for f in fields(kind)} if hasattr(kind, "__dataclass_fields__") else None


@pytest.mark.parametrize("owner", renamed.RENAMED)
def test_a_row_leads_to_a_field_of_today_from_one_that_is_gone(owner):
    known = names_of(owner)
    for old, new in renamed.RENAMED[owner].items():
        assert known is None or old not in known, f"{owner}.{old} is a field again: its old meaning cannot be told"
        assert known is None or isinstance(new, Gone) or new in known, f"{owner} has no field {new}"
        assert new not in renamed.RENAMED[owner], f"{owner}.{old} leads to a name that changed again"


def test_classes_lead_to_classes_of_today():
    assert not renamed.CLASSES.keys() & set(renamed.CLASSES.values())
    assert not renamed.CLASSES.keys() & renamed.RENAMED.keys(), "rows stand under the name of today"


@pytest.mark.parametrize("owner", renamed.BEFORE)
def test_what_files_of_before_lack_is_a_setting_of_today_with_another_default(owner):
    """Otherwise the row says nothing. A file that has the setting keeps it, whatever it is."""
    homes = (memories, training.runner)
    (kind,) = {getattr(home, owner) for home in homes if hasattr(home, owner)}
    defaults = {f.name: f.default for f in fields(kind)}
    before = renamed.BEFORE[owner]
    for name, value in before.items():
        assert defaults[name] != value
    assert translate(owner, {})[1] == before
    today = {name: defaults[name] for name in before}
    assert translate(owner, today)[1] == today


@pytest.mark.parametrize("memory", ["mac", "mag", "mal"])
def test_a_config_of_today_says_what_configs_of_before_lack(memory):
    for config in (ModelConfig(memory=memory), NestedConfig(levels=(LevelConfig(8, 4),), memory=memory)):
        saved = config.to_dict()
        assert saved["options"]["attention_residual"] is True
        again = type(config).from_dict(json.loads(json.dumps(saved)))
        assert again.to_dict() == saved
        old = type(config).from_dict({**saved, "options": {}})
        assert old.options["attention_residual"] is False
        assert old.options.get("gate", "vectors") == "vectors"


# -- one owner ---------------------------------------------------------------------------------------------------------
def test_names_of_today_pass_unchanged_and_in_order():
    assert translate("AnyState", {"b": 1, "a.b": [2]}) == ("AnyState", {"b": 1, "a.b": [2]})
    assert list(translate("AnyState", {"b": 1, "a": 2})[1]) == ["b", "a"]


def test_a_class_a_field_and_the_beginning_of_a_parameter_are_translated(table, classes):
    classes["Old"] = "New"
    table["New"] = {"tail": "conv_state", "gate": "gates", "gate.bias": "shift"}
    owner, values = translate("Old", {"tail": 1, "tails": 2, "gate.weight": 3, "gate.bias": 4, "gated.weight": 5})
    assert owner == "New"
    assert values == {"conv_state": 1, "tails": 2, "gates.weight": 3, "shift": 4, "gated.weight": 5}
    assert translate(owner, values) == (owner, values)


@pytest.mark.parametrize("value", [None, {}, ()])
def test_what_is_gone_is_dropped_where_it_says_nothing(table, value):
    table["TTTState"] = {"open": DROPPED_IF_EMPTY}
    assert translate("TTTState", {"open": value, "position": 3}) == ("TTTState", {"position": 3})


@pytest.mark.parametrize("value", [{"k": torch.ones(1)}, torch.ones(1), "elu", False, 0])
def test_what_is_gone_is_refused_in_one_line_where_it_matters(table, value):
    table["TTTState"] = {"open": DROPPED_IF_EMPTY}
    with pytest.raises(CourseError, match=r"TTTState no longer has 'open'.*inner steps") as refused:
        translate("TTTState", {"open": value})
    assert "\n" not in str(refused.value)


def test_an_option_that_is_gone_is_dropped_at_its_usual_value(table):
    table["LinearAttentionConfig"] = {"feature": Gone("only plain keys are left", usual=("none",))}
    linear = {"memory": "linear", "options": {"feature": "none", "conv": 4}}
    assert translate("ModelConfig", linear)[1] == {"memory": "linear", "options": {"conv": 4}}
    with pytest.raises(CourseError, match="only plain keys are left"):
        translate("ModelConfig", {"memory": "linear", "options": {"feature": "elu"}})


# -- settings inside settings ------------------------------------------------------------------------------------------
def test_options_belong_to_the_memory_and_levels_to_their_class(table):
    table["TTTLinearConfig"] = {"checkpoint": "recompute"}
    table["LevelConfig"] = {"rate": "step_size"}
    table["NestedConfig"] = {"variant": "joined"}
    config = {"memory": "ttt-linear", "options": {"checkpoint": True}, "variant": "nested"}
    config["levels"] = [[{"hidden": 8, "rate": 0.1}], [{"hidden": 4, "rate": 0.2}]]
    name, today = translate_model("NestedLanguageModel", config)
    assert name == "NestedLanguageModel" and today["options"] == {"recompute": True} and today["joined"] == "nested"
    assert today["levels"] == [[{"hidden": 8, "step_size": 0.1}], [{"hidden": 4, "step_size": 0.2}]]
    assert config["options"] == {"checkpoint": True}, "what was given is not changed"
    assert translate("ModelConfig", {"memory": "ttt-mlp", "options": {"checkpoint": True}})[1]["options"] == {
        "checkpoint": True
    }
    assert translate("ModelConfig", {"memory": None, "options": None})[1] == {"memory": None, "options": None}


def test_a_model_that_is_not_the_course_s_keeps_its_config(table):
    table["ModelConfig"] = {"hidden": "mlp_width"}
    assert translate_model("Mine", {"hidden": 3}) == ("Mine", {"hidden": 3})
    assert translate_model(None, {"hidden": 3}) == (None, {"mlp_width": 3})


def test_what_a_run_was_asked_for_is_translated_to_its_depth(table):
    table["TrainingConfig"] = {"recompute": "checkpointed"}
    table["Plan"] = {"size": "scale"}
    table["M3"] = {"rms": "root_mean_square"}
    table["ModelConfig"] = {"hidden": "mlp_width"}
    asked = {"recompute": True, "optimizer": "m3", "optimizer_options": {"rms": 0.2}}
    asked |= {"plan": {"size": "small"}, "model": {"hidden": 3}}
    assert translate("TrainingConfig", asked)[1] == {
        "checkpointed": True,
        "optimizer": "m3",
        "optimizer_options": {"root_mean_square": 0.2},
        "plan": {"scale": "small"},
        "model": {"mlp_width": 3},
    }


# -- what loads by itself ----------------------------------------------------------------------------------------------
def tiny(**options) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(vocab=11, width=8, layers=1, heads=2, hidden=12, **options))


def test_a_state_with_an_old_name_is_loaded(table, classes, tmp_path):
    model = tiny(memory="delta")
    _, state = model(torch.arange(6)[None])
    state.save(tmp_path / "s")
    metadata = {"nl_course.state": description(tmp_path / "s", "nl_course.state").replace('"matrix":', '"fast":')}
    metadata["nl_course.state"] = metadata["nl_course.state"].replace("MatrixState", "OldState")
    save_file(load_file(tmp_path / "s"), tmp_path / "old", metadata=metadata)
    with pytest.raises(CourseError, match="OldState"):
        State.load(tmp_path / "old")
    classes["OldState"] = "MatrixState"
    table["MatrixState"] = {"fast": "matrix"}
    loaded = State.load(tmp_path / "old").tensors()
    assert all(torch.equal(loaded[name], t) for name, t in state.tensors().items())


def description(path, key: str) -> str:
    """As older versions kept it: without checksums."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.dumps(json.loads(file.metadata()[key])["description"])


def test_parameters_of_a_saved_model_are_found_under_new_names(table, tmp_path):
    model = tiny()
    save_model(model, tmp_path / "new", torch.float32)
    tensors = load_file(tmp_path / "new")
    old = {name.replace(".memory.", ".mixer.").replace("embedding", "table"): t for name, t in tensors.items()}
    assert old.keys() != tensors.keys()
    text = description(tmp_path / "new", "nl_course.checkpoint").replace("embedding", "table")
    save_file(old, tmp_path / "old", metadata={"nl_course.checkpoint": text})
    table["Block"] = {"mixer": "memory"}
    table["LanguageModel"] = {"table": "embedding"}
    again = load_model(tmp_path / "old")
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())


def test_a_parameter_that_is_gone_is_left_out(table):
    table["Linear"] = {"bias": Gone("it was never used")}
    assert parameter_names(nn.Sequential(nn.Linear(1, 1)), ["0.weight", "0.bias"]) == {"0.weight": "0.weight"}


def test_a_run_that_was_asked_for_under_old_names_goes_on(table, classes, tmp_path):
    """The fields of a plan and of the training's settings, an optimizer's class, options and what it keeps."""

    def run(steps: int, resume: bool):
        def stop(line: dict) -> bool:
            return line["step"] == steps

        settings = TrainingConfig(steps=4, batch_size=2, length=8, optimizer="momentum", save_every=0)
        return train(
            tiny(), STREAM, settings, folder=tmp_path, resume=resume, progress=False, stop=stop, about={"size": "tiny"}
        )

    whole = run(2, False)
    path = tmp_path / "checkpoint.safetensors"
    assert "Momentum" in description(path, "nl_course.checkpoint")
    text = description(path, "nl_course.checkpoint").replace('"size"', '"scale"').replace("Momentum", "Heavy")
    text = text.replace('"weight_decay"', '"decay"')
    save_file(load_file(path), path, metadata={"nl_course.checkpoint": text})
    about = (tmp_path / "run.json").read_text().replace('"size"', '"scale"').replace('"weight_decay"', '"decay"')
    (tmp_path / "run.json").write_text(about)
    with pytest.raises(CourseError, match="size"):
        run(4, True)
    classes["Heavy"] = "Momentum"
    table["TrainingConfig"] = {"scale": "size", "decay": "weight_decay"}
    table["Momentum"] = {"decay": "weight_decay"}
    assert read_run(tmp_path).settings["size"] == read_info(path)["progress"]["asked"]["size"] == "tiny"
    again = run(4, True)
    assert again.step == 4 and again.losses[:2] == whole.losses


def test_plans_and_saved_configs_are_read_under_old_names(table):
    table["Plan"] = {"kind": "memory"}
    table["ModelConfig"] = {"mlp": "hidden"}
    table["NestedConfig"] = {"depth": "layers"}
    table["TrainingConfig"] = {"rows": "batch_size"}
    assert Plan.of({"plan": {"kind": "delta"}}).memory == "delta"
    assert ModelConfig.from_dict({"mlp": 12}).hidden == 12
    assert NestedConfig.from_dict({"depth": 3}).layers == 3
    assert TrainingConfig.from_dict({"rows": 3}).batch_size == 3
