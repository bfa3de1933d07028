"""The library's hashes are made by a recipe, and the shipped ones are what it makes."""

import json

from nl_course.files import asset
from nl_course.record import record


def test_the_recipe_makes_what_the_course_ships(tmp_path):
    (path,) = record("library", tmp_path, quick=True)
    made, shipped = json.loads(path.read_text()), json.loads(asset("library.json").read_text())
    assert path == tmp_path / "library.json" and list(made["packages"]) == ["networkx"]
    if made["packages"]["networkx"]["version"] == shipped["packages"]["networkx"]["version"]:
        assert made["packages"]["networkx"] == shipped["packages"]["networkx"]
    assert made["revision"] == shipped["revision"]
