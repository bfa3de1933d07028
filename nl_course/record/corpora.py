"""Three real corpora in a row: what is forgotten of the earlier ones, and what is carried over to those not yet read?

The models and the reading are those of continual.py, where one new corpus comes between two visits of an old one. Here
every corpus is new to a model that was trained on general text. After each visit the reader is asked windows of
held-out books of all three: a matrix of losses, row i after corpus i, and the losses before any (tasks/continual.py has
the measures). Arms: one plain MLP, and continuum memory systems of three sets of clocks with as many parameters; with
`per_token` a slower level's rate is in proportion to its clock. Each reads at three rates, since what an arm forgets
must be compared with what it learned: `learnt` is how far the loss of a corpus fell while it was read. Arms are
compared at equal learning, by the rule of equal_gain.py: what each forgets where it has learned as much as the others,
less what the plain MLP forgets there, seed by seed.
"""

from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from nl_course.nested.probe import follow
from nl_course.record.continual import clocked, domain_of, levels_wanted, trained
from nl_course.record.equal_gain import Arms, at_equal_gain
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings
from nl_course.tasks.continual import domain_stream, transfer
from nl_course.training import evaluate_windows

NAME = "corpora"
MEASURES = ("learnt", "forgetting", "forward", "backward", "average")


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains and reads; writes `runs/corpora.json`."""
    config = settings(NAME, device, quick)
    recording = Recording(NAME, config, device)
    texts = {name: windows_of(config, name).to(device) for name in config["corpora"]}
    matrices: dict[tuple[str, float], list] = {}
    sizes: dict[str, int] = {}
    for seed in config["seeds"]:
        tokens = streams(config, seed).to(device)
        starts = {levels: trained(config, levels, seed, device) for levels in levels_wanted(config)}
        for name, arm in config["arms"].items():
            for rate in arm["rates"]:
                model = clocked(starts[len(arm["clocks"])], config, arm, rate)
                curves, _ = follow(model, tokens, config["bytes_each"], texts)
                by_corpus = [curves[corpus] for corpus in texts]
                losses = torch.stack(by_corpus, dim=-1).cpu()  # (readers, visits + 1, corpora)
                matrices.setdefault((name, rate), []).append(losses)
                sizes[name] = model.parameter_count()
                print(f"seed {seed}, {name} at rate {rate:g}: {summary([losses])}", flush=True)
    runs = []
    for (name, rate), seeds in matrices.items():
        runs.append(
            {
                "arm": name,
                "clocks": config["arms"][name]["clocks"],
                "rate": rate,
                "parameters": sizes[name],
                **summary(seeds),
                "by_seed": [summary([losses]) for losses in seeds],
                "losses": [_rounded(losses.mean(0)) for losses in seeds],
            }
        )
    results = {
        "units": "nats per byte of held-out books; `losses` by seed: row 0 before any corpus, row i after the i-th, a "
        "column a corpus, means of the readers. `learnt` the fall of a corpus's loss over its own visit, `forgetting` "
        "how far it rose again by the end, `forward` how far corpora fell before they were read (below 0: they rose), "
        "`backward` what later ones did to earlier ones; `_spread` the standard deviation over seeds. at_equal_gain: "
        "what an arm forgets where it has learnt as much as the others, at a share of the gain that all reach; "
        "less_plain the difference from the plain MLP by seed, with its interval",
        "corpora": list(texts),
        "runs": runs,
        "at_equal_gain": at_equal_gain(gains_of(runs), against="plain"),
    }
    return [recording.write(assets / "runs" / f"{NAME}.json", results)]


def gains_of(runs: list[dict]) -> Arms:
    """Of each arm, by seed, its runs by growing rate: (learnt, forgetting)."""
    arms: Arms = {}
    for run in sorted(runs, key=lambda run: run["rate"]):
        by_seed = arms.setdefault(run["arm"], [[] for _ in run["by_seed"]])
        for points, scores in zip(by_seed, run["by_seed"], strict=True):
            points.append((scores["learnt"], scores["forgetting"]))
    return arms


def _rounded(matrix: Tensor) -> list[list[float]]:
    """A matrix as JSON, four digits."""
    rows = []
    for row in matrix.tolist():
        rows.append([round(value, 4) for value in row])
    return rows


def measures(losses: Tensor) -> dict[str, float]:
    """Of losses (visits + 1, corpora): row 0 before any corpus. MEASURES, in the units of the losses, good when high
    except for `forgetting` and `average`."""
    scores = transfer(losses[1:], untrained=losses[0], better="lower")
    learned = (losses[:-1].diagonal() - losses[1:].diagonal()).mean().item()
    return {"learnt": learned, **{key: getattr(scores, key) for key in MEASURES[1:]}}


def summary(seeds: list[Tensor]) -> dict[str, float]:
    """The mean of every measure over seeds and readers, and with several seeds how they spread."""
    by_seed: dict[str, list[float]] = {key: [] for key in MEASURES}
    for losses in seeds:
        of_readers = [measures(matrix) for matrix in losses.double()]
        for key in MEASURES:
            by_seed[key].append(mean(scores[key] for scores in of_readers))
    results = {}
    for key, values in by_seed.items():
        results[key] = round(mean(values), 4)
        if len(values) > 1:
            results[f"{key}_spread"] = round(stdev(values), 4)
    return results


def streams(config: dict, seed: int) -> Tensor:
    """A text for each reader, (readers, visits * bytes_each + 1): every corpus once; the last byte is only a target."""
    corpora = [domain_of(config, name) for name in config["corpora"]]
    rows = []
    for reader in range(config["readers"]):
        tokens = domain_stream(corpora, config["bytes_each"], seed=1000 * seed + reader).tokens
        rows.append(torch.cat([tokens, tokens[:1]]))
    return torch.stack(rows)


def windows_of(config: dict, name: str) -> Tensor:
    """Windows of held-out books of a corpus, (windows, window + 1)."""
    stream = domain_of(config, name).held_out
    starts = evaluate_windows(stream, config["window"], config["windows"])
    return torch.stack([stream[s : s + config["window"] + 1] for s in starts]).long()
