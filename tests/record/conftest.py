"""Every recipe that a test here runs is also asked to leave the caller's random numbers as they were."""

from importlib import import_module
from types import SimpleNamespace

import pytest

import nl_course.record
from tests.generators import unchanged


@pytest.fixture(autouse=True)
def recipes_leave_random_numbers_alone(monkeypatch):
    def imported(name: str) -> SimpleNamespace:
        recipe = import_module(name)

        def run(*arguments, **options):
            with unchanged() as changed:
                files = recipe.run(*arguments, **options)
            assert not changed, f"{name} changes the caller's random numbers of {', '.join(changed)}"
            return files

        return SimpleNamespace(run=run)

    monkeypatch.setattr(nl_course.record, "import_module", imported)
