"""The VAE: three conditional distributions as a Pyro model and guide."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.compat import is_jit_tracing
from pyro_vae.contracts import (
    PLATE,
    call,
    check_data,
    check_dtype,
    check_float,
    check_latents,
    check_likelihood,
    check_prior,
    check_shape,
)
from pyro_vae.param_store import bind, unbind
from pyro_vae.utils.checks import check_count
from pyro_vae.utils.modules import device_of, dtype_of, evaluating

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
        with pyro.plate(PLATE, num_samples if x is None else len(x), dim=-1):
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
        with pyro.plate(PLATE, len(x), dim=-1):
            return pyro.sample("z", q_z)

    # Point values: for pictures and for looking at, in eval mode, without gradients.

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """The latent point of each x: the posterior's mean, else the average of 32 draws.

        Shapes: ``(*batch, *x_shape)`` to ``(*batch, z_dim)``; x is taken to the VAE's device and
        dtype.
        """
        check_float("x", x)
        with evaluating(self):
            q_z = call(self, "posterior", x.to(device_of(self), dtype_of(self)))
            return _finite(_mean(q_z), lambda: q_z.sample((_DRAWS,)).mean(0))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's mean where it is finite, else its most probable value.

        A likelihood that has neither gives the average of 32 draws. Shapes: ``(*batch, z_dim)`` to
        ``(*batch, *x_shape)``; z is taken to the VAE's device and dtype.
        """
        check_float("z", z)
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
        if is_jit_tracing():
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


def check_vae(vae: object) -> None:
    """Raises TypeError unless `vae` is a VAE."""
    if not isinstance(vae, VAE):
        raise TypeError(f"vae: got a {type(vae).__name__}, expected a VAE")


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
