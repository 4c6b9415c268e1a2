"""The VAE: three conditional distributions as a Pyro model and guide."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from pyro_vae.arguments import check_count
from pyro_vae.seeding import seeded
from pyro_vae.store import bind, unbind
from pyro_vae.supports import (
    check_finite,
    describe,
    ends_of,
    is_real,
    same_support,
    support_of,
)

_DRAWS = 32  # whose average stands in for the mean of a distribution that has none


Part = nn.Module | Callable[..., dist.Distribution]
"""A module whose ``forward`` returns a distribution, or a function that does."""


class VAE(nn.Module):
    r"""A variational auto-encoder: prior p(z), likelihood p(x|z) and posterior q(z|x).

    :meth:`model` and :meth:`guide` are plain Pyro functions with the latent site ``"z"``, the
    observed site ``"x"`` and the plate ``"data"`` over examples. The parameters are those of the
    module: a torch optimizer takes ``vae.parameters()``; Pyro's find them, at each call, under
    ``"<name>.<path>"`` in its parameter store, the prior's and the likelihood's at each call of
    the model, the posterior's at each call of the guide. They belong to this object alone: another
    VAE of the same name shares nothing with it, and ``pyro.clear_param_store()`` loses nothing.
    The module is their owner: weights are loaded into it (``load_state_dict``), not into the
    store. Pyro's ``Jit*_ELBO``, which go by names alone, are refused.

    Source: Kingma and Welling (2014), sections 2 and 3.

    Arguments:
        prior: Module or function; ``prior()`` has batch shape ``()`` and event shape ``(z_dim,)``.
        likelihood: Module or function; ``likelihood(z)`` has batch shape ``z.shape[:-1]`` and
            event shape ``x_shape``.
        posterior: Module or function; ``posterior(x)`` has the batch shape of x and event shape
            ``(z_dim,)``. What a function holds is its own: it is not trained, moved or saved.
        name: Prefix of the parameters' names in Pyro.

    Raises:
        TypeError: A part is neither module nor function or holds a ``PyroModule``, or the name is
            no string; in :meth:`model` and :meth:`guide`, x is no floating-point tensor.
        ValueError: In :meth:`model` and :meth:`guide`: x does not fit the parts, or they do not
            fit each other, by shape or by support; two VAEs of one name are in one trace.
        RuntimeError: ``torch.jit`` traces the model or the guide.
    """

    def __init__(self, prior: Part, likelihood: Part, posterior: Part, name: str = "vae") -> None:
        super().__init__()
        parts: dict[str, Any] = {
            "prior": prior,
            "likelihood": likelihood,
            "posterior": posterior,
        }
        for part, module in parts.items():
            if isinstance(module, nn.Module):
                continue
            if isinstance(module, type) or isinstance(
                getattr(module, "__self__", None), nn.Module
            ):
                raise TypeError(
                    f"{part}: got {module.__qualname__}, expected the module itself: a class is "
                    "to be called, and a method would hide what its module trains"
                )
            if isinstance(module, TorchDistributionMixin | torch.distributions.Distribution):
                raise TypeError(
                    f"{part}: got a distribution, {type(module).__name__}, expected a module or "
                    f"function that returns it, {part}=lambda: ... for instance"
                )
            if not callable(module):
                raise TypeError(
                    f"{part}: got a {type(module).__name__}, expected a torch.nn.Module, or a "
                    "function that returns a distribution"
                )
            parts[part] = _Function(module)
        for part, module in parts.items():
            if any(isinstance(m, PyroModule) for m in module.modules()):
                raise TypeError(
                    f"{part}: holds a PyroModule, expected plain torch modules: PyroModules keep "
                    "their parameters in Pyro's store by names of their own, by which two VAEs "
                    "would share them"
                )
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: got {name!r}, expected a string that is not empty")
        self.prior = parts["prior"]
        self.likelihood = parts["likelihood"]
        self.posterior = parts["posterior"]
        self.name = name
        self._checked: tuple[nn.Module, ...] = ()  # the parts whose latents were seen to agree
        self.preset: dict[str, Any] | None = None
        """What `presets.build` was told, so that a saved VAE can be built again."""

    # The generative model and the guide.

    def model(self, x: Tensor | None = None, num_samples: int = 1) -> Tensor:
        """The Pyro model p(z) p(x|z); observes `x`, or else draws `num_samples` examples.

        Arguments:
            x: Data of shape ``(N, *x_shape)``, or None.
            num_samples: Size of the plate where `x` is None.

        Returns:
            x, of shape ``(N, *x_shape)``, with further dimensions on the left under vectorized
            particles.
        """
        if x is not None:
            check_data(x)
            check_dtype("x", x, self)
        swapped = self._bind(self.prior, self.likelihood)
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            p_z = call(self, "prior", swapped=swapped)
            check_prior(p_z)
            z = pyro.sample("z", p_z)
            p_x = call(self, "likelihood", z, swapped=swapped)
            check_likelihood(p_x, z)
            if x is not None:
                check_shape("x", x.shape, p_x)
            return pyro.sample("x", p_x, obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """The Pyro guide q(z|x).

        Arguments:
            x: Data of shape ``(N, *x_shape)``.

        Returns:
            z, of shape ``(N, z_dim)``, with further dimensions on the left under vectorized
            particles.
        """
        check_data(x)
        check_dtype("x", x, self)
        swapped = self._bind(self.posterior)
        q_z = call(self, "posterior", x, swapped=swapped)
        if self._checked != (self.prior, self.posterior):
            with poutine.block():  # a prior with sites of its own has none in the guide
                check_latents(call(self, "prior"), q_z, x)
            self._checked = (self.prior, self.posterior)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q_z)

    # Point values: for pictures and for looking at, in eval mode, without gradients.

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """The latent point of each x: the posterior's mean, else the average of 32 draws.

        Shapes: ``(*batch, *x_shape)`` to ``(*batch, z_dim)``; x is taken to the VAE's device and
        dtype.
        """
        _check_float("x", x)
        with evaluating(self):
            q_z = call(self, "posterior", x.to(device_of(self), dtype_of(self)))
            return _finite(_mean(q_z), lambda: q_z.sample((_DRAWS,)).mean(0))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's mean where it is finite, else its most probable value.

        A likelihood that has neither gives the average of 32 draws. Shapes: ``(*batch, z_dim)`` to
        ``(*batch, *x_shape)``; z is taken to the VAE's device and dtype.
        """
        _check_float("z", z)
        with evaluating(self):
            return _point(call(self, "likelihood", z.to(device_of(self), dtype_of(self))))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decodes the latent point of each x; the shape stays that of x."""
        return self.decode(self.embed(x))

    @torch.no_grad()
    def generate(self, num_samples: int, sample: bool = False) -> Tensor:
        """New examples from draws of the prior: their point values, or with `sample` draws of x.

        Shape: ``(num_samples, *x_shape)``.
        """
        check_count("num_samples", num_samples)
        with evaluating(self):
            p_z = call(self, "prior")
            check_prior(p_z)
            z = p_z.sample((num_samples,))
            check_dtype("prior", z, self)
            p_x = call(self, "likelihood", z)
            return p_x.sample() if sample else _point(p_x)

    def extra_repr(self) -> str:
        parts = {part: getattr(self, part) for part in ("prior", "likelihood", "posterior")}
        lines = [f"name={self.name!r}, parameters:"]
        for part, module in parts.items():
            own = list(module.parameters())
            trained = sum(p.numel() for p in own if p.requires_grad)
            text = f"  {part}: {trained:,} trained"
            if frozen := sum(p.numel() for p in own) - trained:
                text += f", {frozen:,} fixed"
            for other in parts:
                theirs = {id(p) for p in parts[other].parameters()}
                shared = sum(p.numel() for p in own if id(p) in theirs)
                if other != part and shared:
                    text += f" ({shared:,} shared with the {other})"
            lines.append(text)
        return "\n".join(lines)

    # Parameters in Pyro.

    def _bind(self, *parts: nn.Module) -> dict[int, Tensor]:
        """Makes the tensors of some parts Pyro's parameters; returns those a handler swapped."""
        if torch._C._get_tracing_state():
            raise RuntimeError(
                "torch.jit traces a VAE: Pyro's Jit*_ELBO find parameters by name alone, so that "
                "one VAE's step could train another's; use the ELBO without Jit"
            )
        if "_bound" not in vars(self):
            self._bound: dict[str, Tensor] = {}
            weakref.finalize(self, unbind, self._bound, {}).atexit = False
        return bind(self, self.name, self._bound, parts)

    def __getstate__(self) -> dict[str, Any]:
        # The ties to Pyro's store are this object's own; a copy or a pickle makes its own.
        return {key: value for key, value in vars(self).items() if key != "_bound"}


class _Function(nn.Module):
    """A function as a part."""

    def __init__(self, function: Callable[..., dist.Distribution]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> dist.Distribution:
        return self.function(*args)

    def extra_repr(self) -> str:
        function = self.function
        while isinstance(function, partial):
            function = function.func
        # No repr, which has an address: a saved structure is that of another process too.
        return getattr(function, "__qualname__", type(function).__qualname__)


def call(
    vae: VAE, part: str, *args: Tensor, swapped: Mapping[int, Tensor] | None = None
) -> dist.Distribution:
    """Calls a part of a VAE by its name, which an error then bears.

    `swapped` holds the parameter values that Pyro's handlers gave (``lift``, ``replay``), by the
    id of the parameter that they stand for.
    """
    module = getattr(vae, part)
    try:
        if swapped:
            named = module.named_parameters(remove_duplicate=False)
            values = {path: swapped[id(own)] for path, own in named if id(own) in swapped}
            distribution = functional_call(module, values, args)
        else:
            distribution = module(*args)
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error
    if not isinstance(distribution, TorchDistributionMixin):
        kind = type(distribution)
        raise TypeError(
            f"{part}: its forward gave a {kind.__module__}.{kind.__qualname__}, expected a "
            "distribution of pyro.distributions (torch's are there under the same names)"
        )
    return distribution


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode for a block, then each submodule back into its own."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: the device of its parameters, or else of its buffers."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.get_default_device() if tensor is None else tensor.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a module computes in: the dtype of its first floating-point parameter or buffer."""
    tensors = chain(module.parameters(), module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())


@torch.no_grad()
def examine(
    vae: VAE, x: Tensor, shape: torch.Size, argument: str = "x"
) -> tuple[dist.Distribution, dist.Distribution]:
    """Holds the three parts against each other and data of `shape`, of which `x` is an example.

    Returns q(z|x) and a likelihood at one draw of the prior. No mode changes, no stream moves on.
    """
    with evaluating(vae), seeded(0, device=device_of(vae)):
        p_z = call(vae, "prior")
        check_prior(p_z)
        z = p_z.sample((1,))
        check_dtype("prior", z, vae)
        p_x = call(vae, "likelihood", z)
        check_likelihood(p_x, z)
        check_shape(argument, shape, p_x)
        _check_batches(vae, z)
        q_z = call(vae, "posterior", x)
        check_latents(p_z, q_z, x)
        return q_z, p_x


def check_prior(p_z: dist.Distribution) -> None:
    """Raises ValueError unless the prior is one of a vector, and of one."""
    if len(p_z.event_shape) != 1 or p_z.batch_shape:
        raise ValueError(
            f"prior: got batch_shape {tuple(p_z.batch_shape)} and event_shape "
            f"{tuple(p_z.event_shape)}, expected () and (z_dim,)"
        )


def check_latents(p_z: dist.Distribution, q_z: dist.Distribution, x: Tensor) -> None:
    """Raises ValueError unless prior and posterior fit each other and x, by shape and support."""
    check_prior(p_z)
    if q_z.event_shape != p_z.event_shape or q_z.batch_shape != x.shape[:1]:
        raise ValueError(
            f"posterior: got batch_shape {tuple(q_z.batch_shape)} and event_shape "
            f"{tuple(q_z.event_shape)} for x of shape {tuple(x.shape)}, expected "
            f"({len(x)},) and the prior's {tuple(p_z.event_shape)}"
        )
    supports = support_of(p_z), support_of(q_z)
    if not same_support(*supports):
        raise ValueError(
            f"posterior: its support is {describe(supports[1])}, expected the prior's, "
            f"{describe(supports[0])}{_onto(supports[0])}"
        )


def _onto(support: constraints.Constraint) -> str:
    """What brings a posterior onto a prior's support, if it is an interval."""
    ends = ends_of(support)
    if ends is None:
        hint = "leave out what squashes it" if is_real(support) else "give it a transform onto it"
        return f": {hint}"
    return f": posteriors.Squashed(posterior, low={ends[0]:.9g}, high={ends[1]:.9g}) is on it"


def check_likelihood(p_x: dist.Distribution, z: Tensor) -> None:
    """Raises ValueError unless the likelihood of z has the batch shape of z."""
    if p_x.batch_shape != z.shape[:-1]:
        raise ValueError(
            f"likelihood: got batch_shape {tuple(p_x.batch_shape)} and event_shape "
            f"{tuple(p_x.event_shape)} for z of shape {tuple(z.shape)}, expected batch_shape "
            f"{tuple(z.shape[:-1])}: all dimensions of one x belong to the event"
        )


def _check_batches(vae: VAE, z: Tensor) -> None:
    """Raises ValueError unless the likelihood takes further batch dimensions, as those of samples.

    Arguments:
        z: Of shape ``(1, z_dim)``, which it takes.
    """
    z = z.expand(2, *z.shape)
    try:
        check_likelihood(call(vae, "likelihood", z), z)
    except (ValueError, RuntimeError, IndexError, AssertionError) as error:
        raise ValueError(
            f"likelihood: takes z of shape {tuple(z.shape[1:])}, but not of {tuple(z.shape)} "
            f"({error}); expected any number of batch dimensions: networks.Folded(network, "
            "in_shape, out_shape) adds them to a network of one"
        ) from error


def check_shape(argument: str, shape: torch.Size, p_x: dist.Distribution) -> None:
    """Raises ValueError unless data of a shape ``(N, *x_shape)`` fit the likelihood's x."""
    if p_x.event_shape != shape[1:]:
        sizes = ", ".join(map(str, p_x.event_shape))
        raise ValueError(
            f"{argument}: got shape {tuple(shape)}, expected (N, {sizes}): the likelihood's "
            f"event_shape is {tuple(p_x.event_shape)}"
        )


def check_data(x: Tensor, argument: str = "x") -> None:
    """Raises TypeError or ValueError unless x is finite floats of shape ``(N, *x_shape)``."""
    _check_float(argument, x)
    if x.dim() < 2:
        raise ValueError(f"{argument}: got shape {tuple(x.shape)}, expected (N, *x_shape)")
    if is_validation_enabled():  # reads values, as Pyro's own checks do, and goes with them
        check_finite(argument, x)


def check_dtype(argument: str, value: Tensor, vae: nn.Module) -> None:
    """Raises TypeError unless floats have the dtype that the VAE computes in."""
    if value.dtype != dtype_of(vae):
        raise TypeError(f"{argument}: got {value.dtype}, expected the VAE's {dtype_of(vae)}")


def _check_float(argument: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: got a {type(value).__name__}, expected a torch.Tensor")
    if not value.is_floating_point():
        hint = (
            "; datasets.to_pixels(levels, pixels, seed) and fit(pixels=...) make x of 8-bit levels"
            if value.dtype == torch.uint8
            else ""
        )
        raise TypeError(f"{argument}: got {value.dtype}, expected a floating-point tensor{hint}")


def _mean(distribution: dist.Distribution) -> Tensor | None:
    try:
        return distribution.mean
    except NotImplementedError:
        return None


def _point(p_x: dist.Distribution) -> Tensor:
    def most_probable() -> Tensor:
        try:
            return p_x.mode
        except NotImplementedError:
            return p_x.sample((_DRAWS,)).mean(0)

    return _finite(_mean(p_x), most_probable)


def _finite(value: Tensor | None, other: Callable[[], Tensor]) -> Tensor:
    """The values where they are finite, else others."""
    if value is None:
        return other()
    finite = torch.isfinite(value)
    return value if finite.all() else torch.where(finite, value, other())
