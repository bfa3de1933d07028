"""The family on one page: every memory of the course has a row, and names lead where they say."""

from importlib import import_module

import pytest

from nl_course.errors import CourseError
from nl_course.family import ROWS, ComposedConfig, row_of, rows_not_here, rows_of
from nl_course.family.reference import MEMORIES as INNER_MEMORIES
from nl_course.memories import MEMORIES


def test_every_memory_of_the_course_has_one_row():
    named = [name for row in ROWS for name in row.registered]
    assert sorted(named) == sorted(MEMORIES)


def test_every_cell_of_the_table_is_filled():
    for row in ROWS:
        assert all((row.name, row.memory, row.loss, row.retention, row.optimizer, row.parallel, row.source)), row.name
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.here], ids=lambda row: row.name)
def test_what_is_here_names_its_function(row):
    assert not row.grade and not row.change
    if row.function:
        module, _, name = row.function.partition(":")
        assert hasattr(import_module(module), name), row.function


def test_what_is_not_here_says_how_it_was_read_and_what_would_change():
    missing = rows_not_here()
    assert {"RWKV-7", "Mamba-2", "Mamba-3", "ATLAS", "LaCT"} < {row.name for row in missing}
    for row in missing:
        assert row.grade and row.change and not row.registered and not row.function, row.name


def test_choices_are_options_of_the_composed_memory_and_lead_back_to_the_row():
    for row in ROWS:
        for choices in row.choices:
            found = row_of(ComposedConfig(8, 2, **choices))
            # Mamba-2's gate is chosen by the token, RetNet's is fixed: the same composition.
            assert found is not None and choices in found.choices, row.name
    assert row_of(ComposedConfig(8, 2, loss="l3")) is None
    assert row_of(ComposedConfig(8, 2, forget="first")).name == "DeltaNet"  # without retention the order is no matter
    assert row_of(ComposedConfig(8, 2, retention="scalar")) is None
    assert INNER_MEMORIES == ("matrix", "mlp")


def test_rows_are_found_by_their_notebook():
    assert [row.name for row in rows_of("05")] == ["Titans' memory (LMM)", "MAC, MAG, MAL"]
    with pytest.raises(CourseError, match="notebook '12' is not known"):
        rows_of("12")
