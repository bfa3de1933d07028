"""What an ablation is: the options of `ablated` (switches.py), as one value."""

from dataclasses import dataclass, fields

from nl_course.errors import CourseError, check_choice, check_int


@dataclass(frozen=True)
class Ablation:
    """What is changed; the defaults change nothing.

    `inner_steps` n: the gradient step of a chunk is taken n times, each gradient where the last step arrived.
    `sign` -1 climbs the inner loss: the step's sign is flipped, not retention's, momentum's or an erase's (which in a
    linear self-modifying memory with a chunk of one then cancels against the step's own: -eta k^T v^ is left).
    `read_with` "key" reads the memory at k where q was. `last_layer_only` holds all other layers of the inner network
    as they are: not written, and not worn by retention. `learning_rate_per_token` False gives every token the step that
    the gate's bias alone says (sigmoid(b) times the largest); retention and momentum stay a token's own. `momentum`
    False: the step goes into the weights and nowhere else (so it is no longer summed up to 1 / (1 - eta) times itself).
    `frozen` names memories of a self-modifying Titans that are not written, such as ("key", "value"). `without` names
    parts that a MAC, MAG or MAL leaves out, of "memory", "attention" and "persistent".
    """

    inner_steps: int = 1
    sign: int = 1
    read_with: str = "query"
    last_layer_only: bool = False
    learning_rate_per_token: bool = True
    momentum: bool = True
    frozen: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self):
        check_int("inner_steps", self.inner_steps, 1)
        if isinstance(self.sign, bool) or self.sign not in (1, -1):
            raise CourseError(f"sign must be 1 (descend) or -1 (climb), not {self.sign!r}.")
        check_choice("read_with", self.read_with, ("query", "key"))
        for name in ("last_layer_only", "learning_rate_per_token", "momentum"):
            if not isinstance(getattr(self, name), bool):
                raise CourseError(f"{name} must be True or False, not {getattr(self, name)!r}.")
        for name in ("frozen", "without"):
            names = getattr(self, name)
            if isinstance(names, str):
                raise CourseError(f"{name} must be a tuple of names, such as ({names!r},).")
            object.__setattr__(self, name, tuple(names))

    @property
    def changed(self) -> tuple[str, ...]:
        """The options that are not as usual, by name."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)
