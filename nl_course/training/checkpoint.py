"""Models and whole training runs in one safetensors file: tensors, and a description in JSON. No pickle, so a file from
anywhere is safe to open; written whole or not at all; one that does not fit is refused before anything is touched.

    save_model(model, "small.safetensors", info={"loss": 1.9})      weights in bf16 and the config, to ship
    model = load_model("small.safetensors")
    save_training(path, model, optimizer, {"step": 100})            everything that going on exactly needs
    progress = load_training(path, model, optimizer)
"""

import importlib
import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.files import write_atomically
from nl_course.renamed import parameter_names, translate, translate_model

_KEY = "nl_course.checkpoint"  # where the description stands in a file's metadata
_FORMAT = 1
# How to build a saved model: its class's name -> the module, and the name of its config there.
MODELS = {
    "LanguageModel": ("nl_course.model", "ModelConfig"),
    "NestedLanguageModel": ("nl_course.nested", "NestedConfig"),
}


def bare(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and DistributedDataParallel wrappers, whose tensor names are the saved ones."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            model.module if type(model).__name__.endswith("Parallel") else None
        )
        if inner is None:
            return model
        model = inner


# -- a model to ship ----------------------------------------------------------------------------------------
def save_model(
    model: nn.Module, path: str | os.PathLike, dtype: torch.dtype = torch.bfloat16, info: dict | None = None
) -> None:
    """Writes a model's weights (floats as `dtype`), its config and `info` (anything JSON holds)."""
    tensors, aliases = _model_tensors(bare(model))
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    _write(path, tensors, {"kind": "model", **_describe_model(bare(model)), "aliases": aliases, "info": info or {}})


def load_model(
    path: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    build: Callable[[dict], nn.Module] | None = None,
) -> nn.Module:
    """Builds the model that a file describes and fills it; also takes a training checkpoint. In evaluation mode.

    `build` makes the model from the saved config where the course's own classes do not. Raises CourseError, naming
    the file, if it is missing, damaged, no checkpoint, or does not fit its own config.
    """
    with _opened(path) as (file, description):
        model = (build or _builder(path, description))(description["config"]).to(device=device, dtype=dtype)
        _fill(model, file, description, path)
    return model.eval()


def read_info(path: str | os.PathLike) -> dict[str, Any]:
    """What a file says about itself, without its tensors: `kind`, `model`, `config`, and `info` or `progress`."""
    with _opened(path) as (_, description):
        return description


# -- a training run ------------------------------------------------------------------------------------------
def save_training(
    path: str | os.PathLike, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Writes model, optimiser and `progress` (step, config, ...; anything JSON holds) bit for bit."""
    tensors, aliases = _model_tensors(bare(model))
    state = optimizer.state_dict()
    described = _take_tensors(state["state"], "optimizer", tensors)
    _write(
        path,
        tensors,
        {
            "kind": "training",
            **_describe_model(bare(model)),
            "aliases": aliases,
            "optimizer": {"class": type(optimizer).__name__, "groups": state["param_groups"], "state": described},
            "progress": progress,
        },
    )


def load_training(
    path: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> dict[str, Any]:
    """Fills model and optimiser from a file of `save_training`; returns its `progress`, which `check` may refuse.

    Raises CourseError if the file is missing, damaged, of another kind, or made for another model or optimiser;
    the model and the optimiser are then as they were.
    """
    with _opened(path) as (file, description):
        if description["kind"] != "training":
            raise CourseError(f"{path} holds a finished model, not a training run that can be resumed.")
        check(description["progress"])
        saved = description["optimizer"]
        now = optimizer.state_dict()["param_groups"]
        if saved["class"] != type(optimizer).__name__:
            raise CourseError(f"{path} was trained with {saved['class']}, not with {type(optimizer).__name__}.")
        if [len(group["params"]) for group in saved["groups"]] != [len(group["params"]) for group in now]:
            raise CourseError(f"{path} groups the parameters in another way than this optimiser does.")
        _fill(bare(model), file, description, path)
        state = _give_tensors(saved["state"], file.get_tensor)
        state = {i: translate(saved["class"], kept)[1] for i, kept in state.items()}
        groups = [
            {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in g.items()} for g in saved["groups"]
        ]
        optimizer.load_state_dict({"state": {int(i): s for i, s in state.items()}, "param_groups": groups})
        return description["progress"]


# -- inside --------------------------------------------------------------------------------------------------
def _describe_model(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return {"model": type(model).__name__, "config": config.to_dict() if hasattr(config, "to_dict") else {}}


def _model_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name with the prefix "model.", and for a tensor that has two names (tied weights) second -> first."""
    tensors, aliases, first = {}, {}, {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        if place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
            tensors[f"model.{name}"] = tensor.detach()
    return tensors, aliases


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree `value` as JSON; its tensors go into `tensors` under their paths."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"parts": {str(key): _take_tensors(child, f"{path}.{key}", tensors) for key, child in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_tensors(child, f"{path}.{i}", tensors) for i, child in enumerate(value)]}
    return {"value": value}


def _give_tensors(described: Any, tensor: Callable[[str], Tensor]) -> Any:
    if "tensor" in described:
        return tensor(described["tensor"])
    if "parts" in described:
        return {key: _give_tensors(child, tensor) for key, child in described["parts"].items()}
    if "list" in described:
        return [_give_tensors(child, tensor) for child in described["list"]]
    return described["value"]


def _write(path: str | os.PathLike, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    metadata = {_KEY: json.dumps({"format": _FORMAT, **description})}
    # Clones: safetensors refuses tensors that share memory, as views of one buffer may.
    tensors = {name: t.cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise CourseError(f"cannot write the checkpoint {path}: {why}.") from error


@contextmanager
def _opened(path: str | os.PathLike):
    """Yields the open file and its description. Whatever is wrong with the file becomes a CourseError naming it."""
    if not os.path.isfile(path):
        raise CourseError(f"there is no checkpoint at {path}.")
    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            description = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(description, dict) or "kind" not in description:
                raise CourseError(f"{path} holds tensors, but it is not one of the course's checkpoints.")
            if description.get("format") != _FORMAT:
                raise CourseError(
                    f"{path} has format {description.get('format')}; this version reads format {_FORMAT}."
                )
            yield file, _translated(description)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CourseError(f"the checkpoint {path} is damaged or incomplete and cannot be read ({error}).") from error


def _translated(description: dict[str, Any]) -> dict[str, Any]:
    """The description with the names of today; those of tensors are translated where the model is there (`_fill`)."""
    description = dict(description)
    if "model" in description:
        description["model"], description["config"] = translate_model(description["model"], description["config"])
    for part in ("progress", "info"):
        if part in description:
            description[part] = translate_progress(description[part])
    if "optimizer" in description:
        optimizer = description["optimizer"]
        kind = translate(optimizer["class"], {})[0]
        groups = [translate(kind, group)[1] for group in optimizer["groups"]]
        description["optimizer"] = {**optimizer, "class": kind, "groups": groups}
    return description


def translate_progress(progress: dict[str, Any]) -> dict[str, Any]:
    """The progress of a run, or the info of its finished model, what was asked of it under the names of today."""
    if "asked" not in progress:
        return progress
    return {**progress, "asked": translate("TrainingConfig", progress["asked"])[1]}


def _builder(path: str | os.PathLike, description: dict[str, Any]) -> Callable[[dict], nn.Module]:
    name = description["model"]
    if name not in MODELS:
        raise CourseError(f"{path} holds a {name}; the course can build: {', '.join(MODELS)}.")
    module_name, config_name = MODELS[name]
    module = importlib.import_module(module_name)

    def build(config: dict) -> nn.Module:
        try:
            return getattr(module, name)(getattr(module, config_name).from_dict(config))
        except (TypeError, ValueError) as error:
            raise CourseError(f"{path} holds a config that this version cannot build: {error}") from error

    return build


def _fill(model: nn.Module, file: Any, description: dict[str, Any], path: str | os.PathLike) -> None:
    """Copies the saved tensors into the model, after checking that every name and shape fits."""
    own = model.state_dict()
    stored = [name.removeprefix("model.") for name in file.keys() if name.startswith("model.")]  # noqa: SIM118
    stored_as = {today: name for name, today in parameter_names(model, stored).items()}
    saved, aliases = set(stored_as), set(parameter_names(model, description.get("aliases", {})).values())
    here = set(own) - aliases
    for what, names in (("lacks", here - saved), ("has, and this model does not,", saved - here)):
        if names:
            raise CourseError(f"the checkpoint {path} does not fit this model: it {what} {min(names)!r}.")
    tensors = {name: file.get_tensor(f"model.{stored_as[name]}") for name in sorted(here)}
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CourseError(
                f"the checkpoint {path} does not fit this model: {name!r} is {tuple(tensor.shape)} there and "
                f"{tuple(own[name].shape)} here."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
