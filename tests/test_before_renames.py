"""What the code of before the renames wrote still works: states go on, checkpoints load, runs resume, imports run.

The files are described in tests/fixtures/before_renames/README.md. They keep the names of then. What became of a name
is the package's own business: where it has a module `nl_course.renamed`, its

    translate(owner, values) -> (owner, values)

is asked. `owner` is the name of a class as a file has it (a State, a config, a memory, an optimizer) and `values` maps
the names that belong to it (fields, options, parameters) to anything; it returns both under the names of today. Fields
that hold further settings (`options` of a model's config, `optimizer_options` of a run's) are translated with it.
Everything that the package loads by itself (`State.load`, `load_model`, `train(resume=True)`) it translates by itself.
"""

import importlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

# Only these lines may change when things move.
import nl_course.memories as memories
import nl_course.memories.ablations.pooled as pooled
import nl_course.model as model_module
import nl_course.nested as nested
import nl_course.suite.template as template
import nl_course.training as training
import nl_course.training.runner as training_run
from nl_course.app.train_command import started_with
from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, Memory, State
from nl_course.memories.ablations.gain import SharedGain
from nl_course.optimizers import OPTIMIZERS, build_optimizer
from nl_course.renamed import parameter_names
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import load_model, read_info
from nl_course.training.run_folder import checkpoints, read_metrics
from nl_course.training.run_table import read_run
from nl_course.training.runner import Plan

# Files of then have no checksums, which tests/test_tensor_files.py looks at.
pytestmark = pytest.mark.filterwarnings("ignore:.*kept no checksums.*")

# Where classes are looked for by name.
HOMES = (memories, pooled, model_module, nested, template, training, training_run)

ROOT = Path(__file__).resolve().parent.parent
OLD = ROOT / "tests" / "fixtures" / "before_renames"
EXACT, SINGLE = 1e-12, 1e-6  # of float64 and float32, relative to the largest number
STREAM = (torch.arange(4000) * 7 % 11 + torch.arange(4000) // 500).to(torch.uint8)  # what the runs were trained on


def stored(name: str) -> Any:
    return json.loads((OLD / name).read_text(encoding="utf-8"))


OLD_MEMORIES, OLD_MODELS, OLD_NAMES = stored("memories.json"), stored("models.json"), stored("old_names.json")
OLD_RUNS = sorted(path.name for path in (OLD / "runs").iterdir())
# Runs in which weight decay or an optimizer's matrices were told by the shape of parameters, and today are not.
GROUPED_BY_SHAPE = ("deep-momentum", "delta-momentum", "hope", "titans", "ttt-checkpoint")
GONE = {"TwoLoops", "SurpriseStream", "half_life"}  # views that a better one replaced, and what such a view passed on
SEVERAL_STEPS = [name for name, about in OLD_MEMORIES.items() if "switches" in about]
OPTION_GONE = {"linear-elu-conv": "LinearAttentionConfig no longer has 'feature'"}  # and what is said of it
WHOLE = {name: about for name, about in OLD_MEMORIES.items() if name not in (*SEVERAL_STEPS, *OPTION_GONE)}
CONTINUED = [(name, end) for name, about in WHOLE.items() for end in about["ends"]]


# -- the names of today ------------------------------------------------------------------------------------------------
def translated(owner: str, values: Mapping) -> tuple[str, dict]:
    try:
        renamed = importlib.import_module("nl_course.renamed")
    except ModuleNotFoundError:
        return owner, dict(values)
    return renamed.translate(owner, values)


def found(name: str) -> type:
    """The class of that name of today."""
    for home in HOMES:
        if hasattr(home, name):
            return getattr(home, name)
    raise AssertionError(f"there is no {name} in {', '.join(home.__name__ for home in HOMES)}")


def pooled_gates(about: Mapping) -> bool:
    """An option of Titans then, a class of its own today: no config of a file has it, so no table translates it."""
    return about["fields"].get("gates") == "pooled"


def config_of(about: Mapping) -> Any:
    values = {name: value for name, value in about["fields"].items() if not (pooled_gates(about) and name == "gates")}
    name, values = translated(about["config"], values)
    return found(name)(**values)


def memory_of(about: Mapping, tensors: Mapping[str, Tensor], path: str | None = None) -> Memory:
    """The memory as it was saved, in float64."""
    weights = {name.removeprefix("weight."): t for name, t in tensors.items() if name.startswith("weight.")}
    name, weights = translated(about["class"], weights)
    if about["path"] == "gain":  # no path any more, but a class of its own
        memory = SharedGain(config_of(about)).double()
    else:
        name = "PooledTitans" if pooled_gates(about) else name
        memory = found(name)(config_of(about), path=path or about["path"]).double()
    memory.load_state_dict(weights)
    return memory


def assert_near(new: Tensor, old: Tensor, tolerance: float) -> None:
    """Equal to `tolerance` times the largest number of `old`, or times 1 if all are smaller."""
    assert new.shape == old.shape
    furthest = float((new - old).abs().max())
    assert furthest <= tolerance * max(1.0, float(old.abs().max())), f"{furthest:.2e} apart"


# -- states ------------------------------------------------------------------------------------------------------------
def test_every_memory_has_a_file():
    """And so has every class of state there was; one that came later needs none."""
    old = {(about["class"], about["config"]) for about in OLD_MEMORIES.values()}
    assert old >= {tuple(pair) for pair in OLD_NAMES["memories"].values()}
    kinds = set()
    for path in OLD.glob("*/*.state-*.safetensors"):
        header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
        kinds |= set(re.findall(r'\\"kind\\": \\"(\w+)\\"', header.decode("utf-8")))
    assert kinds - {"dict", "tuple"} == set(OLD_NAMES["states"])


@pytest.mark.parametrize(("name", "end"), CONTINUED, ids=[f"{name}-{end}" for name, end in CONTINUED])
def test_a_state_goes_on(name, end):
    about, tensors = OLD_MEMORIES[name], load_file(OLD / "memories" / f"{name}.safetensors")
    memory, x = memory_of(about, tensors), tensors["x"].double()
    state = State.load(OLD / "memories" / f"{name}.state-{end}.safetensors")
    with torch.no_grad():
        y, _ = memory(x[:, end:], state)
        again, _ = memory(x[:, end:], memory(x[:, :end])[1])
    assert_near(y, tensors[f"y-{end}"], EXACT)
    assert_near(again, tensors[f"y-{end}"], EXACT)


@pytest.mark.parametrize("name", dict(CONTINUED))
def test_a_state_goes_on_by_the_reference_path(name):
    about, tensors = OLD_MEMORIES[name], load_file(OLD / "memories" / f"{name}.safetensors")
    if about["path"] == "gain":
        pytest.skip("its chunk keeps a gain matrix, which the reference path cannot go on with")
    memory, end = memory_of(about, tensors, "reference"), about["ends"][0]
    state = State.load(OLD / "memories" / f"{name}.state-{end}.safetensors")
    with torch.no_grad():
        y, _ = memory(tensors["x"].double()[:, end:], state)
    assert_near(y, tensors[f"y-{end}"], EXACT)


@pytest.mark.parametrize("name", [name for name, about in WHOLE.items() if "gradients" in about])
def test_gradients_after_a_state_are_as_before(name):
    """Of sum_i cos(i) y_i, with the state constant: by x, and by each parameter, summed up in the same way."""
    about, tensors = OLD_MEMORIES[name], load_file(OLD / "memories" / f"{name}.safetensors")
    memory, end = memory_of(about, tensors), about["ends"][0]
    state = State.load(OLD / "memories" / f"{name}.state-{end}.safetensors")
    x = tensors["x"].double()[:, end:].requires_grad_()
    y, _ = memory(x, state)
    (y * cosines(y)).sum().backward()
    assert_near(x.grad, tensors["gradient"], EXACT)
    _, old = translated(about["class"], about["gradients"])
    new = {name: p.grad for name, p in memory.named_parameters() if p.grad is not None}
    assert new.keys() == old.keys()
    sums = torch.stack([(new[name] * cosines(new[name])).sum() for name in old])
    assert_near(sums, torch.tensor(list(old.values()), dtype=torch.float64), EXACT)


def cosines(like: Tensor) -> Tensor:
    return torch.cos(torch.arange(like.numel(), dtype=torch.float64)).view_as(like)


@pytest.mark.parametrize("name", SEVERAL_STEPS)
def test_a_chunk_that_was_written_in_several_inner_steps_is_refused_in_one_line(name):
    about, tensors = OLD_MEMORIES[name], load_file(OLD / "memories" / f"{name}.safetensors")
    memory, end = memory_of(about, tensors), about["ends"][0]

    def go_on():
        state = State.load(OLD / "memories" / f"{name}.state-{end}.safetensors")
        memory(tensors["x"].double()[:, end:], state)

    with pytest.raises(CourseError) as refused:
        go_on()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", OPTION_GONE)
def test_a_memory_with_an_option_that_is_gone_is_refused_in_one_line(name):
    with pytest.raises(CourseError, match=OPTION_GONE[name]) as refused:
        config_of(OLD_MEMORIES[name])
    assert "\n" not in str(refused.value)


# -- models ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OLD_MODELS)
def test_a_checkpoint_gives_the_same_logits_and_its_state_goes_on(name):
    path = OLD / "models" / f"{name}.safetensors"
    model, tensors = load_model(path, dtype=torch.float64), load_file(OLD / "models" / f"{name}.logits.safetensors")
    assert type(model).__name__ == translated(OLD_MODELS[name]["class"], {})[0]
    assert read_info(path)["info"] == {"loss": 1.5}
    state = State.load(OLD / "models" / f"{name}.state-11.safetensors")
    with torch.no_grad():
        logits, _ = model(tensors["tokens"])
        rest, _ = model(tensors["tokens"][:, 11:], state)
    assert_near(logits, tensors["logits"], EXACT)
    assert_near(rest, tensors["logits"][:, 11:], EXACT)


# -- runs --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OLD_RUNS)
def test_a_run_resumes_to_the_same_losses(name, tmp_path, recwarn):
    folder = tmp_path / name
    shutil.copytree(OLD / "runs" / name, folder)
    expected = stored(f"runs/{name}/expected.json")
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert checkpoints(folder) == (True, name == "sharded")
    assert [line["loss"] for line in read_metrics(folder)] == expected["losses"][: len(read_metrics(folder))]
    _, asked = translated("TrainingConfig", about["asked"])
    asked.pop("text_hash")
    # Settings that came later are at their defaults, which resuming must allow.
    settings = {f.name: asked.pop(f.name) for f in fields(TrainingConfig) if f.name in asked}
    model = model_of(about["model"])
    run = train(
        model,
        STREAM,
        TrainingConfig.from_dict(settings),
        held_out=STREAM[:300],
        folder=folder,
        resume=True,
        trust=name == "sharded",  # of then, with pickles
        progress=False,
        about=asked,
    )
    assert run.step == 6
    assert run.losses == pytest.approx(expected["losses"], rel=SINGLE)
    looks = [(step, pytest.approx(loss, rel=SINGLE)) for step, loss in expected["held_out"]]
    assert run.held_out == looks
    # Where today's optimizer would group the parameters in another way, the run keeps its own, and says so once.
    assert sum("told by shape" in str(warning.message) for warning in recwarn) == (name in GROUPED_BY_SHAPE)
    weights = {n: p.detach().double() for n, p in model.named_parameters()}
    today = parameter_names(model, expected["weights"])
    assert len(today) == len(expected["weights"]), "every weight of then is one of today"
    for parameter, total in expected["weights"].items():
        w = weights[today[parameter]]
        assert float((w * cosines(w)).sum()) == pytest.approx(total, abs=1e-5), parameter


def model_of(about: Mapping) -> torch.nn.Module:
    """The model that a run.json describes, with other weights."""
    clocks = "levels" in about["config"]
    name, values = translated("NestedConfig" if clocks else "ModelConfig", about["config"])
    model, _ = translated("NestedLanguageModel" if clocks else "LanguageModel", {})
    torch.manual_seed(1)
    return found(model)(found(name).from_dict(values))


@pytest.mark.parametrize("name", OLD_RUNS)
def test_a_run_is_read_for_the_table(name):
    about, expected = stored(f"runs/{name}/run.json"), stored(f"runs/{name}/expected.json")
    run = read_run(OLD / "runs" / name)
    assert run.steps == (4 if name == "sharded" else 3) and not run.done
    assert run.loss == pytest.approx(sum(expected["losses"][: run.steps]) / run.steps)
    assert run.parameters == about["model"]["parameters"]


def test_what_a_run_of_the_command_was_asked_for_is_found():
    _, asked = translated("TrainingConfig", stored("runs/adamw/run.json")["asked"])
    asked.pop("text_hash")
    assert started_with(OLD / "runs" / "adamw") == asked
    assert asked["preset"] == "micro" and asked["optimizer"] == "adamw"


@pytest.mark.parametrize("name", stored("plans.json"))
def test_a_plan_means_the_same_model(name):
    about = stored("plans.json")[name]
    plan = Plan.of(about["asked"])
    model, _ = translated(about["class"], {})
    clocks = "levels" in about["config"]
    config, values = translated("NestedConfig" if clocks else "ModelConfig", about["config"])
    assert type(plan.model).__name__ == config and model in ("LanguageModel", "NestedLanguageModel")
    assert plan.name == name
    assert found(config).from_dict(json.loads(json.dumps(plan.model.to_dict()))) == found(config).from_dict(values)


# -- names -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("statement", OLD_NAMES["statements"])
def test_an_import_of_a_notebook_runs(statement):
    """Or says in one line what took the place of a view that is gone."""
    if any(name in statement for name in GONE):
        with pytest.raises(ImportError, match=r"is now nl_course[.\w]+, which has no .*lab --copy"):
            exec(statement, {})
    else:
        exec(statement, {})


@pytest.mark.parametrize("module", OLD_NAMES["modules"])
def test_a_module_that_a_notebook_imports_is_there(module):
    there = importlib.import_module(module)
    for name in set(OLD_NAMES["modules"][module]) - GONE:
        assert hasattr(there, name) or importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("old", OLD_NAMES["states"])
def test_a_kind_of_state_is_known(old):
    """By its name of then, with all fields but an empty `open`, which may be gone."""
    values = {name: {} if name == "open" else None for name in OLD_NAMES["states"][old]}
    name, values = translated(old, values)
    kind = State._kinds[name]
    own = {f.name for f in fields(kind)} | {"new", "held", "columns"}  # what two of them save instead of a field
    assert values.keys() <= own


@pytest.mark.parametrize("old", sorted(OLD_NAMES["configs"].keys() - {"MatrixConfig", "NeuralConfig", "WindowConfig"}))
def test_a_config_is_known(old):
    """Those that others inherit from and nobody builds by itself are left out."""
    name, values = translated(old, dict.fromkeys(OLD_NAMES["configs"][old]))
    assert values.keys() <= {f.name for f in fields(found(name))}


@pytest.mark.parametrize("old", OLD_NAMES["optimizers"])
def test_an_optimizer_and_its_options_are_known(old):
    name, options = translated(
        OLD_NAMES["optimizers"][old]["class"], dict.fromkeys(OLD_NAMES["optimizers"][old]["options"])
    )
    assert OPTIMIZERS[old].__name__ == name
    for option in options.keys() - {"adam"}:  # which marks a group and is no option of build_optimizer
        assert "is not known" not in refusal(old, option)


def refusal(optimizer: str, option: str) -> str:
    """What is said of an option whose value is nonsense; "" if even that is taken."""
    try:
        build_optimizer(optimizer, torch.nn.Linear(2, 2), **{option: 1e99})
    except (CourseError, TypeError, ValueError, AttributeError) as error:
        return str(error) if f"option of {optimizer}" in str(error) else ""
    return ""


@pytest.mark.parametrize("old", OLD_NAMES["parameters"])
def test_parameters_of_a_memory_are_known(old):
    sizes = dict(kv_rank=6, rope_dim=2, head_dim=4) if old == "latent-attention" else {}
    _, before = translated(OLD_NAMES["memories"][old][1], {})  # options that there were not, with what held then
    memory = memories.build_memory(old, 8, 2, **sizes, **before)
    _, names = translated(OLD_NAMES["memories"][old][0], dict.fromkeys(OLD_NAMES["parameters"][old]))
    assert old in MEMORIES and list(names) == list(memory.state_dict())


# -- names in strings, which no import sees ----------------------------------------------------------------------------
DOTTED = re.compile(r"(?<![\w./-])nl_course((?:\.[A-Za-z_]\w*)+)(?=(.?))", re.DOTALL)
PATHS = re.compile(r"(?<![\w./-])(nl_course/[\w./-]*\w)(?=(.?))", re.DOTALL)
UNFINISHED = ("{", "*", "<")  # behind a name: its last word goes on there, with whatever the program puts in
KINDS = ("*.py", "*.json", "*.sh", "*.toml", "*.md", "*.yml", "*.yaml", "*.cff", "*.ipynb", "Makefile")
LEFT_OUT = (
    "build",
    "dist",
    "site",
    "runs",
    "shots",
    "fixtures",
    "checkpoints",
    "previews",
    "my_course",
)  # recordings keep old names
# Names that are no modules, and why.
NO_MODULES = {
    "nl_course.state": "the key of a saved state's description",
    "nl_course.checkpoint": "the key of a checkpoint's description",
    "nl_course.shard": "the key of the description of a shard",
    "nl_course.nothing": "a test asks for what is not there",
}
NO_FILES = {"nl_course/record/configs/NAME.json"}
IN_A_WHEEL = "nl_course/_course/"  # where a wheel carries what a checkout has beside the package


def texts() -> Iterator[tuple[Path, str]]:
    """Every file that may name a part of the package, but this one, as text; of JSON all strings, one a line."""
    for kind in KINDS:
        for path in sorted(ROOT.rglob(kind)):
            parts = path.relative_to(ROOT).parts
            hidden = any(part.startswith(".") and part not in (".github", ".ci") for part in parts)
            if path.is_file() and path != Path(__file__) and not hidden and not set(parts) & set(LEFT_OUT):
                text = path.read_text(encoding="utf-8")
                yield path, "\n".join(strings(json.loads(text))) if path.suffix in (".json", ".ipynb") else text


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield key
            yield from strings(child)
    elif isinstance(value, list):
        if value and all(isinstance(line, str) for line in value):
            yield "".join(value)  # a cell's source: each line has its own end
        for child in value:
            yield from strings(child)


def resolves(name: str) -> bool:
    """Whether `nl_course.a.b.c` is a module by its own name, or an attribute of one, or of that. A module that only
    answers to an old name of its own does not count: such names are for notebooks that learners have."""
    words, there = name.split("."), importlib.import_module("nl_course")
    for i, word in enumerate(words[1:], 2):
        try:
            there = getattr(there, word)
            continue
        except AttributeError:
            if not isinstance(there, ModuleType):
                return False
        try:
            there = importlib.import_module(".".join(words[:i]))
        except ModuleNotFoundError:
            return False
    moved = isinstance(there, ModuleType) and there.__name__.startswith("nl_course.") and there.__name__ != name
    return not moved


def wrong_names(text: str) -> list[str]:
    """The names and paths in a text that lead nowhere. Where the last word goes
    on with what a program puts in, what stands before it counts."""
    wrong = []
    for match in DOTTED.finditer(text):
        name = f"nl_course{match[1]}"
        if match[2] in UNFINISHED:
            name = name.rpartition(".")[0]
        if name not in NO_MODULES and not resolves(name):
            wrong.append(name)
    for path, behind in PATHS.findall(text):
        path = path.rpartition("/")[0] if behind in UNFINISHED else path
        if path not in NO_FILES and not path.startswith(IN_A_WHEEL) and not (ROOT / path).exists():
            wrong.append(path)
    return wrong


def test_every_name_of_the_package_leads_somewhere():
    wrong = [f"{path.relative_to(ROOT)}: {name}" for path, text in texts() for name in wrong_names(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see `nl_course.memories.titans`, and nl_course.model.LanguageModel.forward.", []),
        ('import_module(f"nl_course.record.{name}")', []),
        ("python -m nl_course.clii train", ["nl_course.clii"]),
        ("nl_course.memories.MEMORYS['x']", ["nl_course.memories.MEMORYS"]),
        ("from nl_course.nested.modell import x", ["nl_course.nested.modell"]),
        ("nl_course/memories/base.py::State", []),
        ("nl_course/memories/bas.py::State", ["nl_course/memories/bas.py"]),
        ("/opt/nl_course/other.py and my_nl_course.other", []),
    ],
)
def test_a_wrong_name_is_found(text, wrong):
    assert wrong_names(text) == wrong
