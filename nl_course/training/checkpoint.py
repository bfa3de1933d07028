"""Models and whole training runs in one safetensors file: tensors, and a description in JSON.

There is no pickle in it, so a file from anywhere is safe to open: it can run no code, and what its description asks for
is compared with what the reader has, never acted on. A file is written whole or not at all, with checksums
(tensor_files.py). One that does not fit is refused before anything is changed.

    save_model(model, "small.safetensors", info={"loss": 1.9})      weights in bf16 and the config, to ship
    model = load_model("small.safetensors")
    save_training(path, model, optimizer, {"step": 100})            everything that going on exactly needs
    progress = load_training(path, model, optimizer)

The description of a model: {"format", "kind": "model", "model": its class, "config", "aliases", "info"}. Of a run:
"kind" is "training", and instead of "info" there are "optimizer" (class, groups, state) and "progress". A sharded run
keeps the same description and the same tensors in several files (sharded_checkpoint.py).
"""

import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.renamed import parameter_names, translate, translate_model
from nl_course.seeding import seeded
from nl_course.tensor_files import TensorFile, open_tensors, write_tensors
from nl_course.training.optimizer_state import check_described, describe_optimizer, saved_optimizer
from nl_course.training.tensor_parts import Box, Source, box, local

_KEY = "nl_course.checkpoint"  # where the description stands in a file's metadata
_FORMAT = 1
# A setting of a memory that chooses how it is computed, not what: a run may go on with another.
_HOW = ("recompute",)
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
    description = {"format": _FORMAT, "kind": "model", **_describe_model(model), "aliases": aliases, "info": info or {}}
    _write(path, tensors, description)


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
        build = build or _builder(file, description)
        with seeded(0):  # what is drawn here is overwritten
            model = build(description["config"]).to(device=device, dtype=dtype)
        _copy_into(model, model_parts(SingleFile(file), description, model))
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
    tensors, description = describe_training(model, optimizer, progress)
    _write(path, tensors, description)


def load_training(
    path: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> dict[str, Any]:
    """Fills model and optimizer from a file of `save_training`; returns its `progress`, which `check` may refuse.

    The model may be sharded: each process then reads its part. Raises CourseError if the file is missing, damaged, of
    another kind, or made for another model or optimizer; the model and the optimizer are then as they were.
    """
    with _opened(path) as (file, description):
        if description["kind"] != "training":
            raise CourseError(f"{path} holds a finished model, not a training run that can be resumed.")
        check(description["progress"])
        restore(SingleFile(file), description, model, optimizer)
        return description["progress"]


# -- the same for one file and for several -------------------------------------------------------------------
class SingleFile:
    """A checkpoint in one file: see `Source`."""

    def __init__(self, file: TensorFile):
        self.names = file.names
        self.path = file.path
        self.shape = file.shape
        self.fault = file.fault
        self._file = file

    def part(self, name: str, wanted: Box) -> Tensor:
        """A part of a tensor, on the processor. The whole tensor is read, since its checksum is that of the whole."""
        return self._file.tensor(name)[wanted.slices()]


def describe_training(
    model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a run by name, sharded ones as they are, and its description."""
    model = bare(model)
    tensors, aliases = _model_tensors(model)
    description = {
        "format": _FORMAT,
        "kind": "training",
        **_describe_model(model),
        "aliases": aliases,
        "optimizer": describe_optimizer(optimizer, tensors),
        "progress": progress,
    }
    return tensors, description


def check_description(description: Any, fault: Callable[[str], CourseError]) -> dict[str, Any]:
    """The description of a checkpoint with the names of today. Raises `fault(why)` if it is not such a description."""
    if not isinstance(description, dict) or description.get("kind") not in ("model", "training"):
        raise fault("its description says nothing of a model")
    if description.get("format") != _FORMAT:
        raise fault(f"it has format {description.get('format')!r:.50}; this version reads format {_FORMAT}")
    parts = {"model": str, "config": dict, "aliases": dict}
    parts |= {"info": dict} if description["kind"] == "model" else {"optimizer": dict, "progress": dict}
    # Files of other programs may leave out what is empty.
    description = {"aliases": {}, "info": {}, **description}
    for name, wanted in parts.items():
        if not isinstance(description.get(name), wanted):
            raise fault(f"{name!r} in its description cannot be {description.get(name)!r:.50}")
    if not all(isinstance(name, str) for name in description["aliases"].values()):
        raise fault("'aliases' in its description must be names")
    if "optimizer" in parts:
        check_described(description["optimizer"], fault)
    try:
        return _translated(description)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        # A setting that this version lacks is refused in words of its own. All else is no description.
        if isinstance(error, CourseError):
            raise
        raise fault(f"its description cannot be understood: {type(error).__name__}: {error}") from error


def restore(source: Source, description: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fills model and optimizer, sharded or whole. Raises CourseError, with nothing changed, for what does not fit."""
    model = bare(model)
    _check_config(source, description, model)
    parts = model_parts(source, description, model)
    groups, state_dict = saved_optimizer(source, description["optimizer"], model, optimizer)
    # All checks come before this line, and all tensors have been read: from here on the model changes.
    _copy_into(model, parts)
    optimizer.param_groups[:] = groups
    optimizer.load_state_dict(state_dict)


# -- inside --------------------------------------------------------------------------------------------------
def _check_config(source: Source, description: dict[str, Any], model: nn.Module) -> None:
    """Raises CourseError unless the checkpoint is of a model of the same class and config."""
    name = _class_of(model).__name__
    if description["model"] != name:
        raise CourseError(f"the checkpoint {source.path} holds a {description['model']}, and this model is a {name}.")
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return
    here = json.loads(json.dumps(config.to_dict()))
    there = description["config"]
    if hasattr(type(config), "from_dict"):
        # Settings that the file leaves out, as those of earlier versions do, have their defaults.
        there = json.loads(json.dumps(_config(source, type(config), there).to_dict()))
    for setting in sorted(here.keys() | there.keys()):
        one, other = (_without_how(values.get(setting)) for values in (there, here))
        if one != other:
            raise CourseError(
                f"the checkpoint {source.path} is of another model: {setting} is {one!r:.100} there and {other!r:.100} "
                "here; take the checkpoint of this run, or the settings of that one."
            )


def _without_how(value: Any) -> Any:
    return {name: one for name, one in value.items() if name not in _HOW} if isinstance(value, dict) else value


def _config(source: Any, config_class: type, values: dict[str, Any]) -> Any:
    try:
        return config_class.from_dict(values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CourseError(f"{source.path} holds a config that this version cannot build: {error}") from error


def _describe_model(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    config = config.to_dict() if hasattr(config, "to_dict") else {}
    return {"model": _class_of(model).__name__, "config": config}


def _class_of(model: nn.Module) -> type:
    """The model's class. `fully_shard` gives a model a class of its own, derived from that."""
    return next(c for c in type(model).__mro__ if not c.__module__.startswith("torch.distributed."))


def _model_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name with the prefix "model.", and for a tensor that has two names (tied weights) second -> first.

    Two names are one tensor if they start at the same address with the same shape and strides.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        held = local(tensor)
        # Empty tensors all have address 0; each is told apart by its name.
        identity = (held.data_ptr(), tensor.shape, held.shape, held.stride()) if held.numel() else name
        if identity in first_names:
            aliases[name] = first_names[identity]
        else:
            first_names[identity] = name
            tensors[f"model.{name}"] = tensor.detach()
    return tensors, aliases


def _write(path: str | os.PathLike, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    write_tensors(path, tensors, _KEY, description, "checkpoint")


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[TensorFile, dict[str, Any]]]:
    """Yields the open file and its description. Whatever is wrong with the file becomes a CourseError naming it."""
    with open_tensors(path, _KEY, "checkpoint") as file:
        yield file, check_description(file.description, file.fault)


def _translated(description: dict[str, Any]) -> dict[str, Any]:
    """The description with the names of today. Names of tensors are translated later, in `check_shapes`: only the
    model knows which class each of them belongs to."""
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


def _builder(file: TensorFile, description: dict[str, Any]) -> Callable[[dict[str, Any]], nn.Module]:
    """A function that makes the described model, one of the course's own, from its config."""
    name = description["model"]
    if name not in MODELS:
        raise CourseError(f"{file.path} holds a {name}; the course can build: {', '.join(MODELS)}.")
    module_name, config_name = MODELS[name]
    module = importlib.import_module(module_name)
    model_class = getattr(module, name)
    config_class = getattr(module, config_name)

    def build(values: dict[str, Any]) -> nn.Module:
        config = _config(file, config_class, values)
        # A config is only believed as far as the file has tensors for it: it could ask for any amount of memory.
        if config.layers > len(file.names):
            raise file.fault(f"its config asks for {config.layers} layers, and it has {len(file.names)} tensors")
        try:
            with torch.device("meta"):  # without memory
                check_shapes(SingleFile(file), description, model_class(config))
            return model_class(config)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, CourseError):
                raise
            raise CourseError(f"{file.path} holds a config that this version cannot build: {error}") from error

    return build


def check_shapes(source: Source, description: dict[str, Any], model: nn.Module) -> dict[str, str]:
    """The model's tensors, by name -> the name in the file. Raises CourseError unless every name and shape fits."""
    own = model.state_dict()
    # A file may hold the names of an older version: today's name -> the name in the file.
    stored = [name.removeprefix("model.") for name in sorted(source.names) if name.startswith("model.")]
    stored_as = {today: name for name, today in parameter_names(model, stored).items()}
    saved = set(stored_as)
    # Tied tensors are in the file once; their second names are filled with the first.
    aliases = set(parameter_names(model, description["aliases"]).values())
    needed = set(own) - aliases
    for what, names in (("lacks", needed - saved), ("has, and this model does not,", saved - needed)):
        if names:
            raise CourseError(f"the checkpoint {source.path} does not fit this model: it {what} {min(names)!r}.")
    names_in_file = {name: f"model.{stored_as[name]}" for name in sorted(needed)}
    for name, stored_name in names_in_file.items():
        shape = source.shape(stored_name)
        if shape != tuple(own[name].shape):
            raise CourseError(
                f"the checkpoint {source.path} does not fit this model: {name!r} is {shape} there and "
                f"{tuple(own[name].shape)} here."
            )
    return names_in_file


def model_parts(source: Source, description: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """What this process holds of each of the model's tensors, read from the file after all names and shapes were
    checked."""
    own = model.state_dict()
    names_in_file = check_shapes(source, description, model)
    return {name: source.part(stored, box(own[name])) for name, stored in names_in_file.items()}


def _copy_into(model: nn.Module, parts: dict[str, Tensor]) -> None:
    own = model.state_dict()
    with torch.no_grad():
        for name, part in parts.items():
            local(own[name]).copy_(part)
