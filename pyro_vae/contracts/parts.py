"""Checks of the three parts of a VAE against each other and against data."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from pyro_vae.contracts.data import check_data, check_dtype
from pyro_vae.contracts.holes import check_no_nan, holes_named
from pyro_vae.contracts.sites import Refused, unchanged
from pyro_vae.distributions import (
    describe_support,
    ends_of,
    is_real,
    same_support,
    scored_support,
    support_of,
)
from pyro_vae.utils.context import Batch, as_batch, expanded, takes_context
from pyro_vae.utils.modules import Function, device_of, evaluating
from pyro_vae.utils.random import seeded

__all__ = [
    "Checked",
    "call",
    "check",
    "check_context",
    "check_latents",
    "check_layer",
    "check_likelihood",
    "check_posterior",
    "check_prior",
    "check_shape",
    "check_supports",
]


@dataclass(frozen=True)
class Checked:
    """Data that fit a VAE, with the VAE's distributions for the first example.

    Attributes:
        x: The data on the VAE's device, of shape ``(N, *x_shape)``.
        context: What is given with x, on the VAE's device; empty if x is all.
        posterior: q(z|x) of the first example, with batch shape ``(1,)``.
        likelihood: p(x|z) at one draw of the prior, with batch shape ``(1,)``.
    """

    x: Tensor
    context: tuple[Tensor, ...]
    posterior: dist.Distribution
    likelihood: dist.Distribution

    @property
    def batch(self) -> tuple[Tensor, ...]:
        """x and its context."""
        return (self.x, *self.context)

    @property
    def support(self) -> constraints.Constraint:
        """The set on which the likelihood is a density."""
        return self.likelihood.support

    @property
    def scored_support(self) -> constraints.Constraint:
        """The set on which the likelihood scores values; it may be wider than the support."""
        return scored_support(self.likelihood)


@torch.no_grad()
def check(
    vae: nn.Module, x: Batch, argument: str = "x", shape: torch.Size | None = None
) -> Checked:
    """Checks the three parts of a VAE against each other and against data.

    The modes of all modules and torch's random generators are unchanged afterwards.

    Arguments:
        vae: A module with the parts ``prior``, ``likelihood`` and ``posterior``.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context.
        argument: The name of the data in error messages.
        shape: The shape of all data, if `x` is only a few examples of them.

    Raises:
        TypeError: The data do not have the VAE's floating-point dtype.
        ValueError: The data are not finite or do not fit the parts, or the parts do not fit each
            other, by shape or by support.

    Example:
        >>> from pyro_vae.contracts import check
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> check(vae, torch.zeros(7, 28, 28)).likelihood.event_shape
        torch.Size([28, 28])
    """
    x, *context = as_batch(x, argument)
    check_data(x, argument, vae, context)
    check_dtype(argument, x, vae)
    check_context(vae, context, values=True)
    device = device_of(vae)
    x, *context = (entry.to(device) for entry in (x, *context))
    first, given = x[:1], [entry[:1] for entry in context]
    with evaluating(vae), seeded(0, device=device):
        p_z = call(vae, "prior", context=given)
        check_prior(p_z, 1)
        z = p_z.sample() if p_z.batch_shape else p_z.sample((1,))
        check_dtype("prior", z, vae)
        p_x = call(vae, "likelihood", z, context=given)
        check_likelihood(p_x, z)
        check_shape(argument, x.shape if shape is None else shape, p_x)
        _check_batches(vae, z, given)
        with holes_named(first, "posterior"):
            q_z = call(vae, "posterior", first, context=given)
        check_latents(p_z, q_z, first)
        check_posterior(vae, x, context)
    return Checked(x, tuple(context), q_z, p_x)


def check_posterior(vae: nn.Module, x: Tensor, context: Sequence[Tensor]) -> None:
    """Raises ValueError if the posterior of an example with NaN in it is NaN itself.

    Arguments:
        vae: A module with the part ``posterior``.
        x: Data of shape ``(N, *x_shape)``.
        context: What is given with x.
    """
    holes = torch.isnan(x).flatten(1).any(1)
    if not holes.any():
        return
    place = int(holes.nonzero()[0])
    one, *given = (entry[place : place + 1] for entry in (x, *context))
    with holes_named(one, "posterior"):
        z = call(vae, "posterior", one, context=given).sample()
    check_no_nan("posterior", one, z)


def check_context(vae: nn.Module, context: Sequence[Tensor], values: bool = False) -> None:
    """Raises ValueError unless a part takes the context, if there is one.

    Arguments:
        vae: A module with the parts.
        context: What is given with x.
        values: Also check the values, by the modules that have ``check_context(*context)``.
    """
    if not context:
        return
    inputs = _inputs(vae)
    if not any(takes_context(vae.get_submodule(p), own) for p, own in inputs.items()):
        raise ValueError(
            f"context: got {len(context)} entries, which no part takes, expected a part whose "
            "forward has *context or a parameter for each entry, without a default, after its own "
            "input; networks.Conditioned(network, ...) makes a network take one. A list of "
            "tensors is (x, *context), and one of batches has tuples, [(x1,), (x2,)]"
        )
    for module in vae.modules() if values else ():
        checked = getattr(module, "check_context", None)
        if callable(checked):
            checked(*context)


def call(
    vae: nn.Module,
    part: str,
    *args: Tensor,
    context: Sequence[Tensor] = (),
    swapped: Mapping[int, Tensor] | None = None,
) -> dist.Distribution:
    """Calls a part of a VAE by its name, which starts the message of an error.

    Arguments:
        vae: A module with the part as an attribute.
        part: The path of the part: ``"prior"``, or ``"priors.0"`` for the first of a list.
        args: The arguments of the part.
        context: What is given with x. The part gets all of it, if it takes a context.
        swapped: The values that Pyro's handlers substituted for parameters (``lift``,
            ``replay``), by the id of the parameter.

    Raises:
        TypeError: The part does not return a distribution of Pyro, or takes another context.
        ValueError: The part raised one, or changes its input in place.
    """
    module = vae.get_submodule(part)
    where = _label(part)
    if context and takes_context(module, len(args)):
        args = (*args, *context)
    try:
        with unchanged(args, where):
            if swapped:
                named = module.named_parameters(remove_duplicate=False)
                values = {path: swapped[id(own)] for path, own in named if id(own) in swapped}
                distribution = functional_call(module, values, args)
            else:
                distribution = module(*args)
    except Refused:
        raise
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except TypeError as error:
        _check_signature(where, _inputs(vae)[part], module, args, error)
        raise
    if not isinstance(distribution, TorchDistributionMixin):
        kind = type(distribution)
        raise TypeError(
            f"{where}: its forward returned a {kind.__module__}.{kind.__qualname__}, expected a "
            "distribution of pyro.distributions, where torch's have the same names"
        )
    return distribution


def _inputs(vae: nn.Module) -> Mapping[str, int]:
    """The number of inputs of each part, without a context, by its path."""
    return cast(Mapping[str, int], vae.inputs)


def _label(part: str) -> str:
    """The path of a part as in Python: ``priors[0]``."""
    name, _, index = part.partition(".")
    return f"{name}[{index}]" if index else name


def _check_signature(
    part: str, own: int, module: nn.Module, args: Sequence[Tensor], error: TypeError
) -> None:
    """Raises TypeError if a part's ``forward`` takes another number of arguments."""
    try:
        forward = module.function if isinstance(module, Function) else module.forward
        inspect.signature(forward).bind(*args)
    except TypeError:
        raise TypeError(
            f"{part}: its forward does not take {own} input{'s' * (own != 1)} and the "
            f"{len(args) - own} entries of the context ({error}), expected a parameter for each, "
            "or *context"
        ) from error


def check_prior(p_z: dist.Distribution, size: int | None = None) -> None:
    """Raises ValueError unless the prior is a distribution of a single vector.

    Arguments:
        p_z: The prior.
        size: The number of examples, each of which may have a prior of its own, by its context.
    """
    if len(p_z.event_shape) != 1 or p_z.batch_shape not in ((), (size,)):
        raise ValueError(
            f"prior: got batch_shape {tuple(p_z.batch_shape)} and event_shape "
            f"{tuple(p_z.event_shape)}, expected () and (z_dim,)"
            + (f", or with a context ({size},) and (z_dim,)" if size is not None else "")
        )


def check_latents(p_z: dist.Distribution, q_z: dist.Distribution, x: Tensor) -> None:
    """Raises ValueError unless prior, posterior and x fit each other by shape and support."""
    check_prior(p_z, len(x))
    if q_z.event_shape != p_z.event_shape or q_z.batch_shape != x.shape[:1]:
        raise ValueError(
            f"posterior: got batch_shape {tuple(q_z.batch_shape)} and event_shape "
            f"{tuple(q_z.event_shape)} for x of shape {tuple(x.shape)}, expected "
            f"({len(x)},) and the prior's {tuple(p_z.event_shape)}"
        )
    check_supports(p_z, q_z)


def check_supports(
    p_z: dist.Distribution, q_z: dist.Distribution, part: str = "posterior"
) -> None:
    """Raises ValueError unless a posterior has the support of its prior.

    Arguments:
        p_z: The prior.
        q_z: The posterior.
        part: The path of the posterior.
    """
    supports = support_of(p_z), support_of(q_z)
    if not same_support(*supports):
        raise ValueError(
            f"{_label(part)}: its support is {describe_support(supports[1])}, expected the "
            f"prior's, {describe_support(supports[0])}{_onto(supports[0])}"
        )


def _onto(support: constraints.Constraint) -> str:
    """A hint how to give a posterior the prior's support."""
    ends = ends_of(support)
    if ends is None:
        if is_real(support):
            return ": use a posterior without a transform onto an interval"
        return ": add a transform onto that support to the posterior"
    return f": posteriors.Squashed(posterior, low={ends[0]:.9g}, high={ends[1]:.9g}) has it"


def check_layer(
    part: str,
    distribution: dist.Distribution,
    batch: torch.Size,
    event_shape: torch.Size | None = None,
) -> None:
    """Raises ValueError unless a part gives one vector for each of its inputs.

    Arguments:
        part: The path of the part.
        distribution: What it returned.
        batch: The batch shape of its inputs.
        event_shape: The shape of the vector; None takes any.
    """
    got = distribution.event_shape
    fits = len(got) == 1 if event_shape is None else got == event_shape
    if not fits or distribution.batch_shape != batch:
        vector = "(z_dim,)" if event_shape is None else f"the prior's {tuple(event_shape)}"
        raise ValueError(
            f"{_label(part)}: got batch_shape {tuple(distribution.batch_shape)} and event_shape "
            f"{tuple(got)}, expected {tuple(batch)} and {vector}"
        )


def check_likelihood(p_x: dist.Distribution, z: Tensor) -> None:
    """Raises ValueError unless the likelihood of z has the batch shape of z."""
    if p_x.batch_shape != z.shape[:-1]:
        raise ValueError(
            f"likelihood: got batch_shape {tuple(p_x.batch_shape)} and event_shape "
            f"{tuple(p_x.event_shape)} for z of shape {tuple(z.shape)}, expected batch_shape "
            f"{tuple(z.shape[:-1])}: all dimensions of one x belong to the event_shape"
        )


def _check_batches(vae: nn.Module, z: Tensor, context: Sequence[Tensor]) -> None:
    """Raises ValueError unless the likelihood takes further batch dimensions.

    Samples and particles add such dimensions on the left.

    Arguments:
        z: A value of shape ``(1, z_dim)`` that the likelihood takes.
        context: What is given with it.
    """
    z = z.expand(2, *z.shape)
    try:
        context = expanded(context, z.shape[:-1])
        check_likelihood(call(vae, "likelihood", z, context=context), z)
    except (ValueError, RuntimeError, IndexError, AssertionError) as error:
        raise ValueError(
            f"likelihood: takes z of shape {tuple(z.shape[1:])}, but not of {tuple(z.shape)} "
            f"({error}); expected any number of batch dimensions: networks.Folded(network, "
            "in_shape, out_shape) adds them to a network that takes a single one"
        ) from error


def check_shape(argument: str, shape: torch.Size, p_x: dist.Distribution) -> None:
    """Raises ValueError unless `shape` is ``(N, *x_shape)`` with the likelihood's x_shape."""
    if p_x.event_shape != shape[1:]:
        sizes = ", ".join(map(str, p_x.event_shape))
        raise ValueError(
            f"{argument}: got shape {tuple(shape)}, expected (N, {sizes}): the likelihood's "
            f"event_shape is {tuple(p_x.event_shape)}"
        )
