"""Random numbers that begin at a seed, while the caller's own go on as if nothing had been drawn.

    with seeded(0):
        model = LanguageModel(config)          # the same weights each time

Whoever calls the course has seeded torch for work of their own. If we seeded it anew, models made in a loop would all
start alike from the second one on, and a spread over them would be 0. So where the course draws by itself, it uses a
`torch.Generator` of its own. Where torch draws, as in the start of an `nn.Linear` or in dropout, only the global
generator will do: `seeded` seeds that one and puts it back. Nothing else in the course may seed it; a test holds that.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nl_course.errors import check_int

# The global generator belongs to the whole process, not to a thread. Notebook 10's board trains in a thread while the
# page draws views: without a lock, one thread would draw from the other's seed, and the first to end would put back a
# state that the second still needs. So only one thread at a time is inside `seeded`. A training run holds the lock for
# one step, and then others may have it. (Explicit generators would need no lock, but torch's layers do not take one.)
# What a thread draws from the global generator outside of `seeded` meanwhile is beyond our reach.
# A thread may be inside several times, one within the other, as when a seeded block trains.
_LOCK = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generators begin at `seed`; afterwards they are as they were. Also usable as a decorator.

    That is the processor's, and those of all GPUs if CUDA is in use already. Raises CourseError for a seed that is no
    whole number from 0 to 2^63 - 1.
    """
    check_int("seed", seed)
    with _LOCK:
        before = torch.get_rng_state()
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        of_gpus = [torch.cuda.get_rng_state(gpu) for gpu in gpus]
        # Not `torch.manual_seed`: where CUDA is not in use yet, that would leave the seed waiting for it.
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)
            for gpu, state in zip(gpus, of_gpus):
                torch.cuda.set_rng_state(state, gpu)
