"""What each parameter of a model is: a matrix or a gain, one matrix or one per head, and where its output goes.

    param_roles(model)["layers.0.memory.neural.start.W1"]     PER_HEAD, a matrix (in, out) for each head

A shape does not say this. (4, 1, 32) may be a gain for each of 4 heads, (4, 32, 32) four matrices or a convolution, and
(96, 4) the taps of a depthwise convolution. So the module that makes a parameter says its role, under the parameter's
name within that module:

    class Mine(nn.Module):
        param_roles: ClassVar[Roles] = {"start.W*": PER_HEAD, "start.b*": BIAS, "persistent": TOKENS}

It is an attribute of the class, because one that is set on an `nn.Parameter` is lost when a model is copied or loaded.
Optimizers read roles to know what decays and what is a matrix, models to know which weights start smaller.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice

# How a tensor's axes are read by an optimizer that treats matrices apart:
#   out-in    one matrix (out, in), as nn.Linear has it; further axes belong to the inputs, as in a convolution
#   in-out    the last two axes are a matrix (in, out), for rows y = x W; axes before them count such matrices
#   vectors   no matrix: each row of the last axis is a vector by itself
LAYOUTS = ("out-in", "in-out", "vectors")

KINDS = ("matrix", "gain", "bias", "embedding", "head", "taps", "tokens", "start", "rate", "vector")
DECAYING = ("matrix", "embedding", "head")


@dataclass(frozen=True)
class Role:
    """What a parameter is.

    `kind` is one of

        matrix      mixes features                           embedding   a row per token, looked up
        gain        multiplies features one by one           head        an output of its own: a row per token
        bias        is added                                 taps        weights of one feature or head by itself
        tokens      rows that stand before a text            start       what a state starts from, if it is no matrix
        rate        a step size, a decay, one number each    vector      none of these, by its shape

    `layout` is one of LAYOUTS. `into_stream` marks the last matrix before the residual stream.
    """

    kind: str
    layout: str = "vectors"
    into_stream: bool = False

    def __post_init__(self) -> None:
        check_choice("role", self.kind, KINDS)
        check_choice("layout", self.layout, LAYOUTS)
        if (self.kind == "matrix") != (self.layout != "vectors"):
            raise CourseError(f"a role has a layout other than 'vectors' if it is a matrix, and only then: {self}.")

    @property
    def decays(self) -> bool:
        """Whether weight decay pulls it to zero: matrices and, as is the custom, embeddings and output heads."""
        return self.kind in DECAYING

    @property
    def is_matrix(self) -> bool:
        """Whether an optimizer may step it as a matrix, by its singular values. Embeddings and output heads have two
        axes too, but their rows belong to different tokens."""
        return self.kind == "matrix"


Roles = Mapping[str, Role]  # by a parameter's name within a module; `*` stands for any letters

MATRIX = Role("matrix", "out-in")
INTO_STREAM = Role("matrix", "out-in", into_stream=True)
PER_HEAD = Role("matrix", "in-out")  # (..., in, out): also one matrix, where there are no axes before
GAIN = Role("gain")
BIAS = Role("bias")
EMBEDDING = Role("embedding")
HEAD = Role("head")
TAPS = Role("taps")
TOKENS = Role("tokens")
START = Role("start")
RATE = Role("rate")
VECTOR = Role("vector")

_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,  # all that keep statistics: batch and instance norms
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# They only hold what belongs to the module around them.
_CONTAINERS = (nn.ParameterDict, nn.ParameterList, nn.ModuleDict, nn.ModuleList, nn.Sequential)


def param_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by its name, in the order of `model.named_parameters()`.

    A module's class says it (`param_roles`, patterns allowed); what a module says of the parts inside it comes before
    what they say themselves. Layers of torch have theirs by type. A parameter with several names, as tied weights have,
    is an embedding if any of them is one. A module that is not the course's may say nothing; then the shape decides,
    see `role_by_shape`. Raises TypeError for a parameter that a module of the course says nothing about, and for a
    declared matrix that is none.
    """
    roles: dict[str, Role] = {}
    first_names: dict[Tensor, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(parameter, name)
        role = _role_of(model, name, parameter)
        if first == name or role.kind == "embedding":
            roles[first] = role
    return roles


def roles_by_parameter(model: nn.Module) -> dict[Tensor, Role]:
    """The role of every parameter, by the parameter itself."""
    roles = param_roles(model)
    return {parameter: roles[name] for name, parameter in model.named_parameters()}


def role_by_shape(parameter: Tensor) -> Role:
    """The role of a parameter of which nothing is said.

    With two axes of more than one number it is a matrix (out, in). With more axes the last two are a matrix (in, out),
    and the axes before count such matrices. Everything else is a vector, also (heads, 1, features): it does not decay.
    """
    if parameter.dim() < 2 or min(parameter.shape[-2:]) == 1:
        return VECTOR
    return MATRIX if parameter.dim() == 2 else PER_HEAD


def _role_of(model: nn.Module, name: str, parameter: Tensor) -> Role:
    owner = model
    *path, _ = name.split(".")
    inside = name  # the parameter's name within the module at hand
    module = model
    for part in (*path, None):
        role = _declared(type(module), inside)
        if role is not None:
            if role.is_matrix and parameter.dim() < 2:
                raise TypeError(f"{name} is declared a matrix and has shape {tuple(parameter.shape)}.")
            return role
        if not isinstance(module, _CONTAINERS):
            owner, inside_owner = module, inside
        if part is not None:
            module = module.get_submodule(part)
            inside = inside.partition(".")[2]
    role = _role_in_torch(owner, inside_owner)
    if role is not None:
        return role
    if type(owner).__module__.partition(".")[0] == "nl_course":
        raise TypeError(
            f"{type(owner).__name__} says no role for its parameter {inside_owner!r}: see nl_course/roles.py."
        )
    return role_by_shape(parameter)


def _declared(kind: type, name: str) -> Role | None:
    """What a class or one of its bases says of the parameter with that name inside it; None for nothing."""
    for pattern, role in _declarations(kind):
        if fnmatchcase(name, pattern):
            return role
    return None


def _declarations(kind: type) -> Iterator[tuple[str, Role]]:
    """All that a class says, and then what its bases say: a subclass names only what it adds or changes."""
    for base in kind.__mro__:
        yield from vars(base).get("param_roles", {}).items()


def _role_in_torch(layer: nn.Module, name: str) -> Role | None:
    """The role of a parameter of one of torch's own layers; None if that layer is not known here."""
    if isinstance(layer, (*_NORMS, nn.Linear, *_CONVOLUTIONS)) and name == "bias":
        return BIAS
    if name != "weight":
        return None
    if isinstance(layer, nn.Linear):
        return MATRIX
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return EMBEDDING
    if isinstance(layer, _NORMS):
        return GAIN
    if isinstance(layer, _CONVOLUTIONS):
        # With a group per channel no two channels meet: the weights are no matrix.
        return TAPS if layer.groups == layer.in_channels > 1 else MATRIX
    return None
