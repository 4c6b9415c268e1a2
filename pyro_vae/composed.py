"""A pair that is composed of parts: modules whose ``forward`` returns a distribution."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.contracts import check_context, check_data, check_dtype
from pyro_vae.pair import Pair
from pyro_vae.utils.checks import check_count, kind
from pyro_vae.utils.context import Context, as_context
from pyro_vae.utils.modules import Function, counts_of, device_of, dtype_of

__all__ = ["Composed", "Part", "as_list", "as_part"]


def __dir__() -> list[str]:
    return __all__


Part = nn.Module | Callable[..., dist.Distribution]
"""A module whose ``forward`` returns a distribution, or a function that does."""


class Composed(Pair):
    """A pair whose model and guide are methods that call its parts.

    A subclass gives its parts to :meth:`_start_parts`, and has ``model`` and ``guide`` as methods.

    Attributes:
        read_by: The parts that each program calls, by ``"model"`` and ``"guide"``.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> vae.read_by["guide"]
        ('posterior',)
    """

    def _start_parts(
        self,
        name: str,
        parts: Mapping[str, Part | list[Part] | None],
        inputs: Mapping[str, int],
        read_by: Mapping[str, Sequence[str]],
        optional: Collection[str] = (),
    ) -> None:
        """Sets the parts as attributes: a module, or a list of them.

        Arguments:
            name: Prefix of the parameters' names in Pyro's store.
            parts: The parts by name, None for an optional one that may be set later. A function
                becomes a module that calls it.
            inputs: The number of inputs of each part besides the context, by its path.
            read_by: The parts that each program calls, by ``"model"`` and ``"guide"``.
            optional: The parts that may be None.

        Raises:
            TypeError: A part is neither a module nor a function, or holds a ``PyroModule``; `name`
                is not a string.
        """
        nn.Module.__init__(self)  # Its programs are methods, so Pair has nothing to take.
        self._start(name)
        self._parts = tuple(parts)
        self._inputs_by_path = dict(inputs)
        self.read_by = dict(read_by)
        for part, given in parts.items():
            if given is None and part in optional:
                self.register_module(part, None)
            elif isinstance(given, list):
                own = [as_part(f"{part}[{index}]", module) for index, module in enumerate(given)]
                self.add_module(part, nn.ModuleList(own))
            else:
                self.add_module(part, as_part(part, cast(Part, given)))
        # Parts that passed the check of latents; with a public name, so that it is put back with
        # the rest of the state if the first runs are those of a program with no graph.
        self.checked: tuple[nn.Module, ...] = ()

    @property
    def inputs(self) -> Mapping[str, int]:
        """The number of inputs of each part besides the context, by its path."""
        own = self._inputs_by_path.items()
        return {path: count for path, count in own if self._has(path.partition(".")[0])}

    def _has(self, part: str) -> bool:
        """Whether an optional part is there."""
        return getattr(self, part) is not None

    def drawing(self, *context: Tensor) -> Any:
        """The model that draws an example, or one for each row of a context."""
        return self.model(None, *context)

    @abstractmethod
    def model(self, x: Tensor | None = None, *context: Tensor, num_samples: int = 1) -> Any:
        """The Pyro model."""

    @abstractmethod
    def guide(self, x: Tensor, *context: Tensor) -> Any:
        """The Pyro guide."""

    @abstractmethod
    def embed(self, x: Tensor, context: Context | None = None) -> Any:
        """The latent point of each x, or the points of several layers."""

    @abstractmethod
    def decode(self, *args: Any, **kwargs: Any) -> Tensor:
        """The point value of x at latent points."""

    def reconstruct(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The point value of each x at its own latent point, ``decode(embed(x))``.

        Arguments:
            x: A floating-point tensor of shape ``(*batch, *x_shape)``.
            context: What is given with each x.

        Returns:
            The reconstructions, of the shape of x.

        Raises:
            TypeError, ValueError: x is not a floating-point tensor, or has no examples.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.reconstruct(torch.zeros(7, 28, 28)).shape
            torch.Size([7, 28, 28])
        """
        return self.decode(self.embed(x, context), context)

    @abstractmethod
    def generate(
        self, num_samples: int, sample: bool = False, context: Context | None = None
    ) -> Tensor:
        """New examples, by draws of the latents."""

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises TypeError: a pair is several functions of x, and each has a name of its own."""
        raise TypeError(
            f"{self.name}: got a call, expected one of its methods: {self.name}.reconstruct(x), "
            f"{self.name}.embed(x), {self.name}.decode(z), {self.name}.model(x) or "
            f"{self.name}.guide(x); log p(x) is log_likelihood({self.name}, x)"
        )

    def setup(self, *batch: Tensor) -> None:
        """Does nothing: the parts have all parameters from the start."""

    @property
    def is_set_up(self) -> bool:
        """True: the parts have all parameters from the start."""
        return True

    def reads(self, program: str, *batch: Tensor) -> list[nn.Parameter]:
        """The trained parameters of the parts that a program calls.

        Arguments:
            program: ``"guide"`` or ``"model"``.
            batch: Not used.
        """
        own = dict.fromkeys(p for part in self._called(program) for p in part.parameters())
        return [p for p in own if p.requires_grad]

    def _checked(self, x: Tensor, context: Sequence[Tensor]) -> tuple[int, tuple[Tensor, ...]]:
        """The number of examples and their context, after checks of both."""
        check_data(x, pair=self, context=context)
        check_dtype("x", x, self)
        own = as_context(tuple(context), len(x))
        check_context(self, own)
        return len(x), own

    def _sized(
        self, x: Tensor | None, context: Sequence[Tensor], num_samples: int
    ) -> tuple[int, tuple[Tensor, ...]]:
        """The same, or for draws in place of x, so many for each row of the context."""
        check_count("num_samples", num_samples)
        if x is not None:
            return self._checked(x, context)
        rows = as_context(tuple(context))
        check_context(self, rows)
        own = tuple(entry.repeat_interleave(num_samples, 0) for entry in rows)
        return (len(own[0]) if own else num_samples), own

    def _called(self, program: str) -> list[nn.Module]:
        return [getattr(self, part) for part in self.read_by[program] if self._has(part)]

    def _given(self, context: Context | None, points: bool = True) -> tuple[Tensor, ...]:
        entries = as_context(context, points=points)
        check_context(self, entries)
        return self.placed(entries)

    def placed(self, entries: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tensors on the pair's device; floats have its dtype."""
        device, dtype = device_of(self), dtype_of(self)
        return tuple(e.to(device, dtype if e.is_floating_point() else e.dtype) for e in entries)

    def extra_repr(self) -> str:
        parts = {part: getattr(self, part) for part in self._parts if self._has(part)}
        lines = [f"  {part}: {text}" for part, text in counts_of(parts).items()]
        return "\n".join([f"name={self.name!r}, parameters:", *lines])


def as_part(part: str, module: Part) -> nn.Module:
    """A part as a module; a function becomes one that calls it.

    Arguments:
        part: What it is, for the message.
        module: A module, or a function.

    Raises:
        TypeError: It is neither, or holds a ``PyroModule``.

    Example:
        >>> from pyro_vae.composed import as_part
        >>> as_part("prior", priors.StandardNormal(2))
        StandardNormal(z_dim=2)
    """
    if not isinstance(module, nn.Module):
        if isinstance(module, type) or isinstance(getattr(module, "__self__", None), nn.Module):
            raise TypeError(
                f"{part}: got {module.__qualname__}, expected the module itself: call a class "
                "first, and pass a module instead of its method, which hides its parameters"
            )
        if isinstance(module, TorchDistributionMixin | torch.distributions.Distribution):
            raise TypeError(
                f"{part}: got a distribution, {type(module).__name__}, expected a module or "
                f"function that returns it, such as {part}=lambda: ..."
            )
        if not callable(module):
            raise TypeError(
                f"{part}: got {kind(module)}, expected a torch.nn.Module, or a "
                "function that returns a distribution"
            )
        module = Function(module)
    if any(isinstance(m, PyroModule) for m in module.modules()):
        raise TypeError(
            f"{part}: holds a PyroModule, expected plain torch modules: a PyroModule "
            "stores its parameters under names of its own, so two VAEs would share them"
        )
    return module


def as_list(argument: str, parts: object) -> list[Part]:
    """Parts as a list; raises TypeError or ValueError unless they are one or more.

    Example:
        >>> from pyro_vae.composed import as_list
        >>> as_list("priors", [priors.StandardNormal(2)])
        [StandardNormal(z_dim=2)]
    """
    if not isinstance(parts, list | tuple | nn.ModuleList):
        raise TypeError(f"{argument}: got {kind(parts)}, expected a list of parts, from z1 up")
    if not len(parts):
        raise ValueError(f"{argument}: got none, expected a part for each layer, from z1 up")
    return list(parts)
