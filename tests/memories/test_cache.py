"""The cache grows in place where nobody can notice, and nowhere else."""

import torch

from nl_course.memories.attention.cache import TokenCache


def column(value: float) -> torch.Tensor:
    return torch.full((1, 2, 1, 3), value)


def filled(count: int) -> TokenCache:
    cache = TokenCache.of(torch.empty(1, 2, 0, 3))
    for i in range(count):
        cache = cache.append(column(i))
    return cache


@torch.no_grad()
def test_storage_doubles_so_that_copies_add_up_to_a_multiple_of_the_length():
    cache, storages = filled(1), set()
    for i in range(1, 4096):
        cache = cache.append(column(i))
        storages.add(cache.storage.data_ptr())
        assert cache.capacity_bytes <= 2 * max(cache.nbytes, 16 * 2 * 3 * 4)
    assert len(storages) <= 12  # one `cat` a token would have made 4,095
    assert torch.equal(cache.columns[0, 0, :, 0], torch.arange(4096.0))


@torch.no_grad()
def test_only_the_state_at_the_end_writes_in_place():
    trunk = filled(20)
    left, right = trunk.append(column(7)), trunk.append(column(9))
    assert left.storage is trunk.storage and right.storage is not trunk.storage
    assert left.columns[0, 0, -1, 0] == 7 and right.columns[0, 0, -1, 0] == 9
    assert len(trunk) == 20 and trunk.columns[0, 0, -1, 0] == 19


def test_with_autograd_nothing_is_written_in_place():
    with torch.no_grad():
        trunk = filled(20)
    new = column(1.0).requires_grad_()
    grown = trunk.append(new)
    assert grown.storage is not trunk.storage
    (gradient,) = torch.autograd.grad(grown.columns.sum(), new)
    assert gradient.eq(1).all()


def test_a_state_read_without_autograd_serves_a_later_pass_with_it():
    with torch.no_grad():
        trunk = filled(20)
    weight = torch.ones((), requires_grad=True)
    first = trunk.append(column(2.0) * weight)
    with torch.no_grad():
        trunk.append(column(5.0))
    (gradient,) = torch.autograd.grad((first.columns**2).sum(), weight)
    assert gradient == 2 * 2.0 * 2.0 * 6


def test_a_cache_made_in_inference_mode_can_be_carried_on_outside():
    with torch.inference_mode():
        trunk = filled(20)
    with torch.no_grad():
        assert len(trunk.append(column(1.0))) == 21


@torch.no_grad()
def test_the_last_columns_are_kept_and_forgotten_storage_is_bounded():
    cache = filled(1)
    for i in range(1, 500):
        cache = cache.append(column(i)).last(8)
    assert torch.equal(cache.columns[0, 0, :, 0], torch.arange(492.0, 500.0))
    assert cache.capacity_bytes <= 3 * cache.nbytes


@torch.no_grad()
def test_saving_keeps_only_what_is_filled(tmp_path):
    cache = filled(33)
    cache.save(tmp_path / "cache.safetensors")
    assert (tmp_path / "cache.safetensors").stat().st_size < cache.nbytes + 600
    assert cache.storage.shape[-2] > 33
