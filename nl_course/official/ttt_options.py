"""The options of the TTT authors' PyTorch code, from a model's config.json or from arguments.

Every option of that code's `TTTConfig` belongs to one of three kinds, and no other option is accepted:

* NUMBERS cannot be seen in the tensors and change what the model computes. They are read and honored.
* SIZES can be seen in the tensors. Where a config says them too, both must agree.
* WITHOUT_EFFECT leave the outputs as they are.

A number that neither the config nor an argument gives is that code's default. A warning says so.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.official.checks import check_size, one_value, warn_of_assumed

# Their name -> the name of our argument, and their default. The number of heads has none: 32 would fit by chance only.
NUMBERS: dict[str, tuple[str, Any]] = {
    "num_attention_heads": ("num_heads", None),
    "ttt_base_lr": ("base_lr", 1.0),
    "rope_theta": ("rope_theta", 10_000.0),
    "rms_norm_eps": ("rms_norm_eps", 1e-6),
    "hidden_act": ("hidden_act", "silu"),
}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "ttt_layer_type",
    "use_gate",
    "share_qk",
    "pre_conv",
    "conv_kernel",
    "mini_batch_size",
    "tie_word_embeddings",
)
WITHOUT_EFFECT = (
    "max_position_embeddings",  # never read: positions count within a mini-batch
    "initializer_range",  # for new weights
    "use_cache",  # a text read at once or token by token gives the same
    "scan_checkpoint_group_size",  # what the backward pass computes again
    "pretraining_tp",  # 1, all at once; other values are refused below
    "pad_token_id",  # only keeps the gradient of its own row of the embedding at 0, in training
    "bos_token_id",  # for tokenizers; the model adds none
    "eos_token_id",  # where Hugging Face's `generate` stops; ours goes on for as long as it is asked to
    "model_type",
    "architectures",
    "auto_map",
    "torch_dtype",  # the tensors have a dtype of their own
    "dtype",
    "transformers_version",
    "_name_or_path",
)
ACTIVATIONS = ("silu", "swish")  # two names of one function


@dataclass(frozen=True)
class TTTOptions:
    """What the tensors cannot say, by the names of our arguments; and of the config, what the tensors say too."""

    num_heads: int
    base_lr: float
    rope_theta: float
    rms_norm_eps: float
    sizes: Mapping[str, Any]

    def check_size(self, name: str, value: Any, source: str) -> None:
        """Raises CourseError if the config says of `name` something else than `value`, which is in tensor `source`."""
        check_size(name, self.sizes.get(name, value), value, source)


def read_options(
    config: Mapping[str, Any] | str | os.PathLike | None, arguments: Mapping[str, Any], needed: Iterable[str]
) -> TTTOptions:
    """The options from `config`, a dict or the path of a config.json, and from `arguments` by our names (None: not
    given). `needed` are those of NUMBERS, by our names, that matter here.

    Raises CourseError for an option that the authors' code does not have, for values that are not supported, and for an
    argument that contradicts the config. Warns where one of `needed` is assumed.
    """
    stated = {} if config is None else _as_dict(config)
    for name in stated:
        if name not in NUMBERS and name not in SIZES and name not in WITHOUT_EFFECT:
            raise CourseError(
                f"the config's option {name!r} is not one of the TTT authors' code; "
                "remove it if it does not change what the model computes."
            )
    if stated.get("pretraining_tp", 1) != 1:
        # In slices the products are the same, unless a size is no multiple: then that code drops the remainder.
        raise CourseError("pretraining_tp must be 1: with sizes that it divides, 1 computes the same.")
    values = {}
    assumed = {}
    for name, (ours, default) in NUMBERS.items():
        values[ours] = one_value(ours, arguments.get(ours), name, stated.get(name))
        if values[ours] is None:
            values[ours] = default
            if ours in needed and default is not None:
                assumed[ours] = default
    if values["num_heads"] is None:
        raise CourseError("num_heads is not given, and the weights do not say it: pass num_heads= or config=.")
    warn_of_assumed(assumed)
    check_choice("hidden_act", values.pop("hidden_act"), ACTIVATIONS)
    check_int("num_heads", values["num_heads"], 1)
    for ours in ("base_lr", "rope_theta", "rms_norm_eps"):
        check_min(ours, values[ours], 0)
    sizes = {name: stated[name] for name in SIZES if name in stated}
    if config is not None:
        # Hugging Face leaves this one out of a config.json where it is True.
        sizes.setdefault("tie_word_embeddings", True)
    if arguments.get("mini_batch_size") is not None:
        sizes["mini_batch_size"] = one_value(
            "mini_batch_size", arguments["mini_batch_size"], "mini_batch_size", sizes.get("mini_batch_size")
        )
    return TTTOptions(**values, sizes=sizes)


def _as_dict(config: Mapping[str, Any] | str | os.PathLike) -> Mapping[str, Any]:
    """`config` itself, or the JSON object in the file that it names."""
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"cannot read the config {str(path)!r}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CourseError(f"the config {str(path)!r} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CourseError(f"the config {str(path)!r} must be a JSON object with options by name.")
    return values
