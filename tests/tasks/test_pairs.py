import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.pairs import attended, draw_pairs, recalled, written

# Measured with numpy before this code was written: d = 64, unit Gaussian keys, 20 seeds. Pairs, Hebb's mean squared
# error, delta's after one pass and after 50, right by nearest value for Hebb and for one pass of delta.
TABLE = [
    (16, 0.233, 0.132, 0.000, 1.000, 1.000),
    (32, 0.484, 0.294, 0.000, 1.000, 0.995),
    (64, 0.990, 0.598, 0.087, 0.999, 0.907),
    (128, 1.964, 1.060, 1.003, 0.977, 0.538),
    (256, 3.980, 1.495, 1.499, 0.762, 0.256),
]


@pytest.mark.parametrize(("pairs", "hebb", "delta", "delta_50", "hebb_right", "delta_right"), TABLE)
@pytest.mark.slow
def test_the_capacity_of_a_matrix(pairs, hebb, delta, delta_50, hebb_right, delta_right):
    drawn = draw_pairs(pairs, 64, rows=40, seed=1)

    def score(rule, **options):
        result = recalled(drawn, drawn.keys @ written(drawn, rule, **options))
        return result.error.mean().item(), result.right.double().mean().item()

    error, right = score("hebb")
    assert error == pytest.approx((pairs - 1) / 64, rel=0.03)
    assert error == pytest.approx(hebb, rel=0.04)
    assert right == pytest.approx(hebb_right, abs=0.02)
    error, right = score("delta")
    assert error == pytest.approx(delta, rel=0.06)  # the table's own 20 draws scatter
    assert right == pytest.approx(delta_right, abs=0.03)
    error, _ = score("delta", passes=50)
    assert error == pytest.approx(delta_50, rel=0.1, abs=0.01)


def test_delta_remembers_the_newest_and_hebb_all_alike():
    drawn = draw_pairs(128, 64, rows=40)
    delta = recalled(drawn, drawn.keys @ written(drawn, "delta")).by_age
    hebb = recalled(drawn, drawn.keys @ written(drawn, "hebb")).by_age
    assert delta.shape == (128,)
    assert delta[0] == 1  # the last pair was written exactly
    assert delta[:32].mean() > 0.9 > 0.4 > delta[-32:].mean()
    assert abs(hebb[:32].mean() - hebb[-32:].mean()) < 0.05


def test_similar_keys_are_hebbs_undoing_and_not_deltas():
    drawn = draw_pairs(16, 64, similarity=0.8, rows=40)
    hebb = recalled(drawn, drawn.keys @ written(drawn, "hebb"))
    delta = recalled(drawn, drawn.keys @ written(drawn, "delta"))
    assert hebb.error.mean() > 5 * delta.error.mean()


@pytest.mark.parametrize("similarity", [0.0, 0.3, 0.9])
def test_similarity_is_the_expected_cosine(similarity):
    keys = draw_pairs(40, 64, similarity, rows=40).keys
    cosine = keys @ keys.mT
    torch.testing.assert_close(cosine.diagonal(dim1=-2, dim2=-1), torch.ones(40, 40, dtype=torch.float64))
    others = cosine[:, ~torch.eye(40, dtype=torch.bool)]
    assert others.mean() == pytest.approx(similarity, abs=0.02)


def test_rewritten_it_keeps_the_new_value():
    old, new = draw_pairs(8, 64, seed=1), draw_pairs(8, 64, seed=2)
    again = type(old)(old.keys, new.values)
    delta = written(again, "delta", start=written(old, "delta"), passes=20)
    assert recalled(again, again.keys @ delta).error.max() < 1e-3
    hebb = written(again, "hebb", start=written(old, "hebb"))
    assert recalled(again, again.keys @ hebb).error.mean() > 1  # old and new value on top of each other


def test_retention_lets_the_old_fade():
    drawn = draw_pairs(4, 4, rows=1)
    eye = type(drawn)(torch.eye(4, dtype=torch.float64)[None], drawn.values)
    reads = eye.keys @ written(eye, "hebb", retention=0.5)
    torch.testing.assert_close(reads, drawn.values * torch.tensor([0.125, 0.25, 0.5, 1.0]).double()[:, None])


def test_sharp_attention_is_exact_and_blunt_attention_is_the_mean():
    drawn = draw_pairs(256, 64, rows=3)
    assert recalled(drawn, attended(drawn, drawn.keys, 200.0)).error.max() < 1e-6
    blunt = attended(drawn, drawn.keys, 0.0)
    torch.testing.assert_close(blunt, drawn.values.mean(1, keepdim=True).expand_as(blunt))
    errors = [recalled(drawn, attended(drawn, drawn.keys, s)).error.mean() for s in (0, 4, 8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)


def test_the_same_seed_draws_the_same_pairs():
    assert torch.equal(draw_pairs(3, 4, seed=5).values, draw_pairs(3, 4, seed=5).values)
    assert not torch.equal(draw_pairs(3, 4, seed=5).keys, draw_pairs(3, 4, seed=6).keys)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: draw_pairs(0, 4), "pairs must be"),
        (lambda p: draw_pairs(2, 4, similarity=1.5), "between 0 and 1, not 1.5"),
        (lambda p: written(p, "heb"), "Did you mean 'hebb'"),
        (lambda p: written(p, "delta", retention=2), "between 0 and 1, not 2"),
        (lambda p: attended(p, p.keys, -1), "sharpness"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call(draw_pairs(2, 4))
