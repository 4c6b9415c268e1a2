"""What the three parts of a VAE owe each other and the data."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from pyro_vae.distributions import (
    check_finite,
    describe_support,
    ends_of,
    is_real,
    same_support,
    scored_support,
    support_of,
)
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded


@dataclass(frozen=True)
class Checked:
    """Data that fit a VAE, and what was learned from holding them against it.

    Attributes:
        x: The data on the VAE's device, shape ``(N, *x_shape)``.
        posterior: q(z|x) of the first example.
        likelihood: p(x|z) at one draw of the prior.
    """

    x: Tensor
    posterior: dist.Distribution
    likelihood: dist.Distribution

    @property
    def support(self) -> constraints.Constraint:
        """The set on which the likelihood is a density."""
        return self.likelihood.support

    @property
    def scored_support(self) -> constraints.Constraint:
        """The set on which the likelihood scores values, which may be wider."""
        return scored_support(self.likelihood)


@torch.no_grad()
def check(
    vae: nn.Module, x: Tensor, argument: str = "x", shape: torch.Size | None = None
) -> Checked:
    """Holds the three parts of a VAE against each other and against data.

    No mode changes, and no random stream moves on.

    Arguments:
        vae: A module with the parts ``prior``, ``likelihood`` and ``posterior``.
        x: Data of shape ``(N, *x_shape)``.
        argument: What the caller calls the data.
        shape: The shape of all data, where `x` is a few examples of them.

    Raises:
        TypeError: The data are no floats of the VAE's dtype.
        ValueError: The data are not finite, or do not fit the parts, or these do not fit each
            other, by shape or by support.
    """
    check_data(x, argument)
    check_dtype(argument, x, vae)
    x = x.to(device_of(vae))
    first = x[:1]
    with evaluating(vae), seeded(0, device=device_of(vae)):
        p_z = call(vae, "prior")
        check_prior(p_z)
        z = p_z.sample((1,))
        check_dtype("prior", z, vae)
        p_x = call(vae, "likelihood", z)
        check_likelihood(p_x, z)
        check_shape(argument, x.shape if shape is None else shape, p_x)
        _check_batches(vae, z)
        q_z = call(vae, "posterior", first)
        check_latents(p_z, q_z, first)
    return Checked(x, q_z, p_x)


def call(
    vae: nn.Module, part: str, *args: Tensor, swapped: Mapping[int, Tensor] | None = None
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
            f"posterior: its support is {describe_support(supports[1])}, expected the prior's, "
            f"{describe_support(supports[0])}{_onto(supports[0])}"
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


def _check_batches(vae: nn.Module, z: Tensor) -> None:
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
    check_float(argument, x)
    if x.dim() < 2:
        raise ValueError(f"{argument}: got shape {tuple(x.shape)}, expected (N, *x_shape)")
    if is_validation_enabled():  # reads values, as Pyro's own checks do, and goes with them
        check_finite(argument, x)


def check_dtype(argument: str, value: Tensor, vae: nn.Module) -> None:
    """Raises TypeError unless floats have the dtype that the VAE computes in."""
    if value.dtype != dtype_of(vae):
        raise TypeError(f"{argument}: got {value.dtype}, expected the VAE's {dtype_of(vae)}")


def check_float(argument: str, value: Tensor) -> None:
    """Raises TypeError unless `value` is a tensor of floats."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: got a {type(value).__name__}, expected a torch.Tensor")
    if not value.is_floating_point():
        hint = (
            "; datasets.to_pixels(levels, pixels, seed) and fit(pixels=...) make x of 8-bit levels"
            if value.dtype == torch.uint8
            else ""
        )
        raise TypeError(f"{argument}: got {value.dtype}, expected a floating-point tensor{hint}")
