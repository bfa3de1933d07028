"""One experiment, three sizes: what its config says for a CPU, for a GPU, and for the test of the recipe itself."""

from collections.abc import Sequence
from typing import Any

from nl_course.record.provenance import read_config

Config = dict[str, Any]


def settings(name: str, device: str = "cpu", quick: bool = False) -> Config:
    """The config of a recording at a size: as it stands on a CPU, with its `gpu` changes on a GPU ("cuda", "cuda:1"),
    with its `quick` changes, which last seconds, if they are asked for. Raises CourseError if there is no config."""
    config = read_config(name)
    quick_changes = config.pop("quick", {})
    gpu_changes = config.pop("gpu", {})
    if quick:
        return changed(config, quick_changes)
    if str(device).startswith("cuda"):
        return changed(config, gpu_changes)
    return config


def settings_replaced(name: str, quick: bool = False, merged: Sequence[str] = ("training",)) -> Config:
    """The config of a recording whose quick changes replace whole groups of settings (its models, say); only the groups
    `merged` are changed setting by setting."""
    config = read_config(name)
    quick_changes = config.pop("quick")
    if not quick:
        return config
    within = {group: {**config[group], **quick_changes[group]} for group in merged}
    return {**config, **quick_changes, **within}


def changed(config: Config, changes: Config) -> Config:
    """A new config: groups of settings are changed setting by setting, everything else is replaced."""
    result = dict(config)
    for key, value in changes.items():
        both_groups = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = changed(result[key], value) if both_groups else value
    return result
