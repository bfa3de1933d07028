"""The table of rules: a rule for every row, counts that are those of real layers, formulas that a page can show."""

import pytest

from nl_course.export.maths import with_mathml
from nl_course.family import ROWS
from nl_course.family.rules import RULES, rule_of
from nl_course.memories import build_memory
from nl_course.views.kit.theme import NEW_TERM
from tests.test_diagrams import channels, contrast
from tools.index import rules

BY_NAME = {one.name: one for one in ROWS}
COUNTED = [rule for rule in RULES if rule.numbers]


def count(formula: str, **letters: int) -> int:
    """The value of a sum of products such as "2 d f + 9 d"."""
    total = 0
    for term in formula.split(" + "):
        product = 1
        for factor in term.split():
            product *= letters[factor] if factor in letters else int(factor)
        total += product
    return total


def test_every_row_that_the_course_builds_has_one_rule():
    built = [one.name for one in ROWS if one.here]
    assert sorted(built) == sorted({rule.name for rule in RULES} & set(BY_NAME))
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert rule_of("LaCT") is None


@pytest.mark.parametrize("rule", COUNTED, ids=lambda rule: rule.name)
@pytest.mark.parametrize(("width", "heads"), [(32, 2), (64, 8)])
def test_the_numbers_carried_are_those_of_a_real_layer(rule, width, heads):
    name = {"MAC, MAG, MAL": "mag"}.get(rule.name, BY_NAME[rule.name].registered[0])
    layer = build_memory(name, width, heads)
    window = getattr(layer.config, "window", None) or 0
    letters = dict(d=width, f=width // heads, t=1_000, w=window)
    assert layer.state_bytes(1_000) == 4 * count(rule.numbers, **letters)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_new_term_and_can_be_shown(rule):
    text = rules.formula(rule.rule)
    assert NEW_TERM in text and r"\new" not in text and "|" not in text  # a bar would end the table's cell
    assert "<math" in with_mathml(text)


def test_a_new_term_may_hold_braces():
    assert rules.formula(r"a \new{b_{c}} d") == rf"$a \textcolor{{{NEW_TERM}}}{{\underline{{b_{{c}}}}}} d$"
    with pytest.raises(ValueError, match="not closed"):
        rules.formula(r"\new{a")


def test_the_table_grows_and_is_whole_in_the_glossary():
    sizes = [len(rules.table(notebook)) for notebook in ("03", "04", "05", "06", "07", "08")]
    assert sizes == sorted(set(sizes))
    assert set(rules.table("08")) <= set(rules.page())


def test_a_marked_text_is_filled_once():
    text = "Before.\n\n<!-- rules 03 -->\n<!-- /rules -->\n\nAfter."
    (filled,) = rules.filled([("a", text)]).values()
    assert "DeltaNet" in filled and filled.endswith("After.") and rules.filled([("a", filled)]) == {}


def test_new_terms_can_be_read_on_light_and_on_dark_pages():
    for paper in ("#FFFFFF", "#111111"):
        assert contrast(channels(NEW_TERM), channels(paper)) >= 4
