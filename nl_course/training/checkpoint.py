"""Models and whole training runs in one safetensors file: tensors, and a description in JSON.

There is no pickle in it, so a file from anywhere is safe to open. A file is written whole or not at all. One that does
not fit is refused before anything is changed.

    save_model(model, "small.safetensors", info={"loss": 1.9})      weights in bf16 and the config, to ship
    model = load_model("small.safetensors")
    save_training(path, model, optimizer, {"step": 100})            everything that going on exactly needs
    progress = load_training(path, model, optimizer)

The description of a model: {"format", "kind": "model", "model": its class, "config", "aliases", "info"}. Of a run:
"kind" is "training", and instead of "info" there are "optimizer" (class, groups, state) and "progress".
"""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.optimizers import check_state_dict, former_groups
from nl_course.renamed import parameter_names, translate, translate_model
from nl_course.tensor_files import TensorFile, open_tensors, write_tensors

_KEY = "nl_course.checkpoint"  # where the description stands in a file's metadata
_FORMAT = 1
# How to build a saved model: the name of its class -> the module, and the name of its config there. By name, so that
# reading a file imports only the kind of model that is in it.
MODELS = {
    "LanguageModel": ("nl_course.model", "ModelConfig"),
    "NestedLanguageModel": ("nl_course.nested", "NestedConfig"),
}


def bare(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of `torch.compile` and DistributedDataParallel. Its tensor names are the saved
    ones: a wrapper puts a word of its own before each."""
    while True:
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif type(model).__name__.endswith("Parallel"):
            model = model.module
        else:
            return model


# -- a model to ship ----------------------------------------------------------------------------------------
def save_model(
    model: nn.Module, path: str | os.PathLike, dtype: torch.dtype = torch.bfloat16, info: dict[str, Any] | None = None
) -> None:
    """Writes a model's weights (floats as `dtype`), its config and `info` (anything JSON holds).

    Raises CourseError if the file cannot be written; an older file at `path` then stands as it was.
    """
    model = bare(model)
    tensors, aliases = _model_tensors(model)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(dtype)
    _write(path, tensors, {"kind": "model", **_describe_model(model), "aliases": aliases, "info": info or {}})


def load_model(
    path: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    build: Callable[[dict[str, Any]], nn.Module] | None = None,
) -> nn.Module:
    """Builds the model that a file describes and fills it; a training checkpoint serves too. In evaluation mode.

    `build` makes the model from the saved config where it is none of the course's own. Raises CourseError, naming the
    file, if it is missing, damaged, no checkpoint, or does not fit its own config.
    """
    with _opened(path) as (file, description):
        build = build or _builder(path, description)
        model = build(description["config"]).to(device=device, dtype=dtype)
        _fill(model, _fitting(model, file, description, path))
    return model.eval()


def read_info(path: str | os.PathLike) -> dict[str, Any]:
    """What a file says about itself, without its tensors: `kind`, `model`, `config`, and `info` or `progress`.

    Raises CourseError as `load_model` does.
    """
    with _opened(path) as (_, description):
        return description


# -- a training run ------------------------------------------------------------------------------------------
def save_training(
    path: str | os.PathLike, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Writes model, optimizer and `progress` (step, settings, ...; anything JSON holds), each number bit for bit.

    Raises CourseError if the file cannot be written; an older file at `path` then stands as it was.
    """
    model = bare(model)
    tensors, aliases = _model_tensors(model)
    optimizer_state = optimizer.state_dict()
    # Adds the optimizer's tensors to those of the model; what is left of its state is JSON.
    described_state = _take_tensors(optimizer_state["state"], "optimizer", tensors)
    description = {
        "kind": "training",
        **_describe_model(model),
        "aliases": aliases,
        "optimizer": {
            "class": type(optimizer).__name__,
            "groups": optimizer_state["param_groups"],
            "state": described_state,
        },
        "progress": progress,
    }
    _write(path, tensors, description)


def load_training(
    path: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> dict[str, Any]:
    """Fills model and optimizer from a file of `save_training`; returns its `progress`, which `check` may refuse.

    Raises CourseError if the file is missing, damaged, of another kind, or made for another model or optimizer; the
    model and the optimizer are then as they were.
    """
    with _opened(path) as (file, description):
        if description["kind"] != "training":
            raise CourseError(f"{path} holds a finished model, not a training run that can be resumed.")
        check(description["progress"])
        saved = description["optimizer"]
        if saved["class"] != type(optimizer).__name__:
            raise CourseError(f"{path} was trained with {saved['class']}, not with {type(optimizer).__name__}.")
        tensors = _fitting(bare(model), file, description, path)
        groups = _groups_to_go_on_with(path, saved["groups"], bare(model), optimizer)
        state = _give_tensors(saved["state"], file.tensor)
        # JSON has no numbers as keys, and torch knows parameters by their number.
        state = {int(index): translate(saved["class"], values)[1] for index, values in state.items()}
        saved_optimizer = {"state": state, "param_groups": [_with_tuples(group) for group in saved["groups"]]}
        try:
            check_state_dict(optimizer, saved_optimizer, groups)
        except CourseError as error:
            raise CourseError(f"the checkpoint {path} does not fit this run: {error}") from error
        # All checks come before this line: from here on the model changes.
        _fill(bare(model), tensors)
        optimizer.param_groups[:] = groups
        optimizer.load_state_dict(saved_optimizer)
        return description["progress"]


# -- inside --------------------------------------------------------------------------------------------------
def _groups_to_go_on_with(
    path: str | os.PathLike, saved: list[dict[str, Any]], model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[dict[str, Any]]:
    """The optimizer's groups, or those of earlier versions where the file was written with them.

    Raises CourseError if the file groups the parameters in neither way.
    """
    sizes = [len(group["params"]) for group in saved]
    if sizes == [len(group["params"]) for group in optimizer.param_groups]:
        return optimizer.param_groups
    groups = former_groups(optimizer, model, sizes)
    if groups is None:
        raise CourseError(f"{path} groups the parameters in another way than this optimizer does.")
    warnings.warn(
        f"{path} is from a version that told by shape which parameters decay and which are matrices. The run goes on "
        "in that way; a run that is started anew has the groups of today.",
        stacklevel=2,
    )
    return groups


def _with_tuples(group: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's group as torch has it: JSON made lists of its tuples (betas), but `params` was a list."""
    restored = {}
    for name, value in group.items():
        was_tuple = isinstance(value, list) and name != "params"
        restored[name] = tuple(value) if was_tuple else value
    return restored


def _describe_model(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return {"model": type(model).__name__, "config": config.to_dict() if hasattr(config, "to_dict") else {}}


def _model_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name with the prefix "model.", and for a tensor that has two names (tied weights) second -> first.

    Two names are one tensor if they start at the same address with the same shape and strides.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        # Empty tensors all have address 0; each is told apart by its name.
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        if identity in first_names:
            aliases[name] = first_names[identity]
        else:
            first_names[identity] = name
            tensors[f"model.{name}"] = tensor.detach()
    return tensors, aliases


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree `value` as JSON. Its tensors go into `tensors`, each under its path in the tree."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, dict):
        parts = {str(key): _take_tensors(child, f"{path}.{key}", tensors) for key, child in value.items()}
        return {"parts": parts}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_tensors(child, f"{path}.{i}", tensors) for i, child in enumerate(value)]}
    return {"value": value}


def _give_tensors(described: dict[str, Any], get_tensor: Callable[[str], Tensor]) -> Any:
    """The tree that `_take_tensors` described, with `get_tensor(path)` where its tensors were. Keys are strings."""
    if "tensor" in described:
        return get_tensor(described["tensor"])
    if "parts" in described:
        return {key: _give_tensors(child, get_tensor) for key, child in described["parts"].items()}
    if "list" in described:
        return [_give_tensors(child, get_tensor) for child in described["list"]]
    return described["value"]


def _write(path: str | os.PathLike, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    write_tensors(path, tensors, _KEY, {"format": _FORMAT, **description}, "checkpoint")


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[TensorFile, dict[str, Any]]]:
    """Yields the open file and its description. Whatever is wrong with the file becomes a CourseError naming it."""
    with open_tensors(path, _KEY, "checkpoint") as file:
        description = file.description
        if not isinstance(description, dict) or "kind" not in description:
            raise file.fault("its description says nothing of a model")
        if description.get("format") != _FORMAT:
            raise CourseError(f"{path} has format {description.get('format')}; this version reads format {_FORMAT}.")
        yield file, _translated(description)


def _translated(description: dict[str, Any]) -> dict[str, Any]:
    """The description with the names of today. Names of tensors are translated later, in `_fitting`: only the model
    knows which class each of them belongs to."""
    description = dict(description)
    if "model" in description:
        description["model"], description["config"] = translate_model(description["model"], description["config"])
    for part in ("progress", "info"):
        if part in description:
            description[part] = translate_progress(description[part])
    if "optimizer" in description:
        optimizer = description["optimizer"]
        name, _ = translate(optimizer["class"], {})
        groups = [translate(name, group)[1] for group in optimizer["groups"]]
        description["optimizer"] = {**optimizer, "class": name, "groups": groups}
    return description


def translate_progress(progress: dict[str, Any]) -> dict[str, Any]:
    """The progress of a run, or the info of its finished model; its settings (`asked`) get the names of today."""
    if "asked" not in progress:
        return progress
    return {**progress, "asked": translate("TrainingConfig", progress["asked"])[1]}


def _builder(path: str | os.PathLike, description: dict[str, Any]) -> Callable[[dict[str, Any]], nn.Module]:
    """A function that makes the described model, one of the course's own, from its config."""
    name = description["model"]
    if name not in MODELS:
        raise CourseError(f"{path} holds a {name}; the course can build: {', '.join(MODELS)}.")
    module_name, config_name = MODELS[name]
    module = importlib.import_module(module_name)
    model_class = getattr(module, name)
    config_class = getattr(module, config_name)

    def build(config: dict[str, Any]) -> nn.Module:
        try:
            return model_class(config_class.from_dict(config))
        except (TypeError, ValueError) as error:
            raise CourseError(f"{path} holds a config that this version cannot build: {error}") from error

    return build


def _fitting(
    model: nn.Module, file: TensorFile, description: dict[str, Any], path: str | os.PathLike
) -> dict[str, Tensor]:
    """The saved tensors under the model's own names. Raises CourseError unless every name and shape fits."""
    own = model.state_dict()
    # A file may hold the names of an older version: today's name -> the name in the file.
    stored = [name.removeprefix("model.") for name in sorted(file.names) if name.startswith("model.")]
    stored_as = {today: name for name, today in parameter_names(model, stored).items()}
    saved = set(stored_as)
    # Tied tensors are in the file once; their second names are filled with the first.
    aliases = set(parameter_names(model, description.get("aliases", {})).values())
    needed = set(own) - aliases
    for what, names in (("lacks", needed - saved), ("has, and this model does not,", saved - needed)):
        if names:
            raise CourseError(f"the checkpoint {path} does not fit this model: it {what} {min(names)!r}.")
    # Every shape is checked before the first tensor is copied: a model is filled whole or not at all.
    tensors = {name: file.tensor(f"model.{stored_as[name]}") for name in sorted(needed)}
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CourseError(
                f"the checkpoint {path} does not fit this model: {name!r} is {tuple(tensor.shape)} there and "
                f"{tuple(own[name].shape)} here."
            )
    return tensors


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies tensors that fit into the model."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
