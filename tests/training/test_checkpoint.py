"""A saved model comes back; a file that is missing, damaged or made for another is named, and nothing is changed."""

import json
from itertools import islice

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from nl_course import tensor_files
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.training import checkpoint, optimizer_state
from nl_course.training.checkpoint import load_model, load_training, read_info, save_model, save_training

SMALL = ModelConfig(vocab=11, width=8, layers=2, heads=2, hidden=12)


def small(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return LanguageModel(config)


def trained(model, steps=2):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        torch.manual_seed(step)
        logits, _ = model(torch.randint(11, (2, 5)), None)
        logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- models -------------------------------------------------------------------------------------------------
def test_a_model_comes_back_bit_for_bit_in_float32_and_rounded_in_bfloat16(tmp_path):
    model = small()
    save_model(model, tmp_path / "exact.safetensors", torch.float32, {"loss": 1.5})
    save_model(model, tmp_path / "short.safetensors")
    exact, short = load_model(tmp_path / "exact.safetensors"), load_model(tmp_path / "short.safetensors")
    assert same(exact.state_dict(), model.state_dict()) and exact.config == SMALL and not exact.training
    assert same(short.state_dict(), {n: t.bfloat16().float() for n, t in model.state_dict().items()})
    assert next(short.parameters()).dtype == torch.float32
    assert next(load_model(tmp_path / "short.safetensors", dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16
    info = read_info(tmp_path / "exact.safetensors")
    assert info["kind"] == "model" and info["model"] == "LanguageModel" and info["info"] == {"loss": 1.5}
    assert info["config"] == json.loads(json.dumps(SMALL.to_dict()))


def test_a_training_checkpoint_can_be_loaded_as_a_model(tmp_path):
    model = small()
    save_training(tmp_path / "run.safetensors", model, trained(model), {"step": 2})
    assert same(load_model(tmp_path / "run.safetensors").state_dict(), model.state_dict())


class Tied(nn.Module):
    """Not one of the course's classes, and its two weights are one tensor."""

    def __init__(self, size=3):
        super().__init__()
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)
        self.second.weight = self.first.weight


def test_tied_weights_are_saved_once_and_a_stranger_needs_a_builder(tmp_path):
    path = tmp_path / "tied.safetensors"
    model = Tied()
    save_model(model, path, torch.float32)
    loaded = load_model(path, build=lambda config: Tied())
    assert same(loaded.state_dict(), model.state_dict()) and loaded.second.weight is loaded.first.weight
    with pytest.raises(CourseError, match="holds a Tied; the course can build: LanguageModel"):
        load_model(path)


def test_wrapped_models_are_saved_under_their_own_names(tmp_path):
    class Wrap(nn.Module):
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

    save_model(Wrap(small()), tmp_path / "wrapped.safetensors")
    assert load_model(tmp_path / "wrapped.safetensors").config == SMALL


# -- training runs -------------------------------------------------------------------------------------------
def test_model_and_optimizer_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "run.safetensors"
    model = small()
    optimizer = trained(model)
    save_training(path, model, optimizer, {"step": 2, "note": "here"})
    other = small(seed=1)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5)
    assert load_training(path, other, fresh) == {"step": 2, "note": "here"}
    assert same(other.state_dict(), model.state_dict())
    for key, value in optimizer.state_dict()["state"].items():
        assert same(fresh.state_dict()["state"][key], value)
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert fresh.param_groups[0]["betas"] == (0.9, 0.999)  # a tuple again, not JSON's list


def test_any_tree_of_an_optimizers_state_is_kept(tmp_path):
    tree = {0: {"step": 3, "flag": True, "none": None, "parts": [torch.ones(2), {"deep": torch.zeros(1)}]}}
    tensors = {}
    described = json.loads(json.dumps(optimizer_state.take_tensors(tree, "o", tensors)))
    back = optimizer_state.give_tensors(described, tensors.__getitem__)
    assert back["0"]["step"] == 3 and back["0"]["flag"] is True and back["0"]["none"] is None
    assert torch.equal(back["0"]["parts"][0], torch.ones(2)) and torch.equal(
        back["0"]["parts"][1]["deep"], torch.zeros(1)
    )


# -- what does not fit -----------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    model = small()
    save_model(model, tmp_path / "model.safetensors")
    save_training(tmp_path / "run.safetensors", model, trained(model), {"step": 2})
    return tmp_path


def damage(path, how):
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-50], "short": data[:5], "empty": b"", "garbage": b"\xff" * 500}[how])


@pytest.mark.parametrize("how", ["cut", "short", "empty", "garbage"])
def test_a_damaged_file_is_named_and_nothing_is_touched(saved, how):
    for name in ("model.safetensors", "run.safetensors"):
        damage(saved / name, how)
    before = (saved / "run.safetensors").read_bytes()
    other = small(seed=1)
    optimizer = trained(other)
    weights, step = {n: t.clone() for n, t in other.state_dict().items()}, optimizer.state_dict()["state"][0]["step"]
    with pytest.raises(CourseError, match=r"model\.safetensors is damaged or incomplete") as raised:
        load_model(saved / "model.safetensors")
    assert "\n" not in str(raised.value)
    with pytest.raises(CourseError, match=r"run\.safetensors is damaged or incomplete"):
        load_training(saved / "run.safetensors", other, optimizer)
    assert (saved / "run.safetensors").read_bytes() == before and same(other.state_dict(), weights)
    assert optimizer.state_dict()["state"][0]["step"] == step


def test_missing_foreign_and_mistaken_files_are_told_apart(saved):
    save_file({"x": torch.ones(1)}, saved / "foreign.safetensors")
    save_file({"x": torch.ones(1)}, saved / "later.safetensors", {checkpoint._KEY: '{"kind": "model", "format": 99}'})
    save_file({"x": torch.ones(1)}, saved / "broken.safetensors", {checkpoint._KEY: "{not json"})
    model = small()
    for name, words in (
        ("none.safetensors", "no checkpoint at .*none"),
        ("", "is a folder, not a checkpoint"),
        ("foreign.safetensors", "not a checkpoint of the course"),
        ("later.safetensors", "has format 99; this version reads format 1"),
        ("broken.safetensors", "damaged"),
    ):
        with pytest.raises(CourseError, match=words):
            load_model(saved / name)
    with pytest.raises(CourseError, match="holds a finished model, not a training run"):
        load_training(saved / "model.safetensors", model, trained(model))


@pytest.mark.parametrize(
    ("change", "words", "setting"),
    [
        ({"width": 16}, r"'embedding.weight' is \(11, 8\) there and \(11, 16\) here", "width is 8 there and 16 here"),
        ({"layers": 3}, "it lacks 'layers.2", "layers is 2 there and 3 here"),
        ({"layers": 1}, "it has, and this model does not, 'layers.1", "layers is 2 there and 1 here"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_before_anything_is_filled(saved, change, words, setting):
    other = small(1, ModelConfig(**{**SMALL.to_dict(), **change}))
    optimizer = torch.optim.AdamW(other.parameters())
    before = {n: t.clone() for n, t in other.state_dict().items()}
    with pytest.raises(CourseError, match=setting):
        load_training(saved / "run.safetensors", other, optimizer)
    with pytest.raises(CourseError, match=words):
        load_model(saved / "model.safetensors", build=lambda config: other)
    assert same(other.state_dict(), before)


def test_another_optimizer_is_refused(saved):
    model = small()
    with pytest.raises(CourseError, match="was trained with AdamW, not with SGD"):
        load_training(saved / "run.safetensors", model, torch.optim.SGD(model.parameters()))


def test_a_config_from_elsewhere_is_refused_in_words(saved):
    path = saved / "odd.safetensors"
    for config, words in (({"vocab": 11, "wdth": 8}, "Did you mean 'width'"), ({"width": -1}, "width must be")):
        description = {"kind": "model", "format": 1, "model": "LanguageModel", "config": config}
        save_file({"model.x": torch.ones(1)}, path, {checkpoint._KEY: json.dumps(description)})
        with pytest.raises(CourseError, match=words) as raised:
            load_model(path)
        assert "odd.safetensors" in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*kept no checksums.*")
def test_a_config_that_asks_for_more_than_the_file_has_takes_no_memory_and_no_time(saved):
    path = saved / "large.safetensors"
    for change, words in (
        ({"layers": 10**9}, "its config asks for 1000000000 layers, and it has"),
        ({"width": 2**28}, r"'embedding.weight' is \(11, 8\) there and \(11, 268435456\) here"),
        ({"vocab": 2**50}, r"is \(11, 8\) there and \(1125899906842624, 8\) here"),
    ):
        config = SMALL.to_dict() | change
        description = {"kind": "model", "format": 1, "model": "LanguageModel", "config": config}
        save_file(load_file(saved / "model.safetensors"), path, {checkpoint._KEY: json.dumps(description)})
        with pytest.raises(CourseError, match=words):
            load_model(path)


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(CourseError, match=r"cannot write the checkpoint .*model\.safetensors: No space left"):
        save_model(small(), saved / "model.safetensors")
    assert (saved / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in saved.iterdir()) == ["model.safetensors", "run.safetensors"]


WRONG = [None, True, -5, 10**12, 1e308, "x", [], {}, {"tensor": "nope"}, {"parts": {}}, {"value": 3}, ...]


def places(node, path=()):
    """The path to every part of a description; of a list, to its first two."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for name, child in children:
        yield from places(child, (*path, name))


@pytest.mark.filterwarnings("ignore:.*kept no checksums.*")
def test_whatever_a_description_says_is_read_or_refused_in_one_line(saved):
    """Every fifth part in turn is left out, or is a wrong value. There are no checksums, which would notice."""
    path = saved / "run.safetensors"
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        text = json.dumps(json.loads(file.metadata()[checkpoint._KEY])["description"])
    other = small(seed=1)
    optimizer = torch.optim.AdamW(other.parameters())
    refused = 0
    for number, place in enumerate(islice(places(json.loads(text)), 0, None, 5)):
        root = [json.loads(text)]
        node, last = root, 0
        for name in place:
            node, last = node[last], name
        if WRONG[number % len(WRONG)] is ...:
            del node[last]
        else:
            node[last] = WRONG[number % len(WRONG)]
        save_file(tensors, path, {checkpoint._KEY: json.dumps(root[0] if root else None)})
        for read in (read_info, load_model, lambda path: load_training(path, other, optimizer)):
            try:
                read(path)
            except CourseError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
    assert refused > 30
