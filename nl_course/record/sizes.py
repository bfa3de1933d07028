"""One experiment, three sizes: what its config says for a CPU, for a GPU, and for the test of the recipe itself."""

from nl_course.record.provenance import read_config


def settings(name: str, device: str = "cpu", quick: bool = False) -> dict:
    """The config of a recording at a size: as it stands on a CPU, with its `gpu` changes on a GPU ("cuda", "cuda:1"),
    with its `quick` changes, which last seconds, where they are asked for. Raises CourseError if there is no config."""
    config = read_config(name)
    quicker, larger = config.pop("quick", {}), config.pop("gpu", {})
    return changed(config, quicker if quick else larger if str(device).startswith("cuda") else {})


def changed(config: dict, changes: dict) -> dict:
    """A new config: groups of settings are changed one by one, everything else is replaced."""
    found = dict(config)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = changed(found[key], value) if both else value
    return found
