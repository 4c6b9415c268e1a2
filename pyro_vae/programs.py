"""A Pyro model and guide as log-densities of each example, whatever their sites are."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.divergences import describe
from pyro_vae.seeding import seeded
from pyro_vae.supports import check_on_support, same_support, support_of
from pyro_vae.supports import describe as describe_support

PLATE = "data"
"""The plate that runs over the examples."""

_SAMPLES = "pyro_vae.samples"

Latents = Mapping[str, Tensor]
"""Values of latent sites by name, samples in their first dimension."""


class Program:
    r"""A model p(x, z) and a guide q(z|x), as densities of each of N examples.

    By effect handlers alone: there may be any number of latent and observed sites, which depend
    on each other as they like, all inside of the plate ``"data"``, and in further plates inside or
    outside of it. What ``poutine.mask`` masks counts for nothing. A plate around all holds
    samples.

    Arguments:
        model, guide: Called with x, or a part of its examples.
        x: Examples of shape ``(N, ...)``, the first of which shows what the sites are.

    Attributes:
        latents: Names of the latent sites, in the guide's order.

    Raises:
        ValueError: A site is outside of the plate, or the plate does not have the size of x; sites
            change from call to call; a latent is not in both model and guide; a log-probability is
            scaled, or not that of an example by itself; more samples at once do not do.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], guide: Callable[[Tensor], Any], x: Tensor
    ) -> None:
        self._programs = {"model": model, "guide": guide}
        self._sites: dict[str, tuple[str, ...]] = {}
        self._sample_dim, self._data_dim = -1, -1
        # The first example twice: what is fixed where x is not shows itself.
        one, two = x[:1], x[:1].expand(2, *x.shape[1:])
        with torch.no_grad(), seeded(0, device=x.device):
            with _explained("fail on the first example alone"):
                drawn, guide_trace = self._called(model, one), self._called(guide, one)
            guide_trace = self._checked("guide", guide_trace, one)
            drawn = self._checked("model", drawn, one)
            self.latents = tuple(guide_trace.stochastic_nodes)
            values = {name: guide_trace.nodes[name]["value"] for name in self.latents}
            model_trace = self._traced("model", poutine.condition(model, data=values), one)
            self._check_latents(drawn, guide_trace, model_trace)
            self._find_plates(guide_trace, model_trace)
            with _explained("fail on the first example alone"):
                self._log_prob(guide_trace, guide_trace.nodes)
                self._log_prob(model_trace, model_trace.nodes)
            with _explained("do one example alone, but not two with two samples"):
                z, log_q = self.draw(two, 2)
                log_p_z, log_p_x = self.score(two, z)
            for program, log_prob in (("guide", log_q), ("model", log_p_z + log_p_x)):
                if log_prob.shape != (2, 2):
                    raise ValueError(
                        f"{program}: two samples of two examples gave log-probabilities of shape "
                        f"{tuple(log_prob.shape)}, expected (2, 2)"
                    )
            if len(x) > 1:
                self._check_apart(x[:2])

    def draw(self, x: Tensor, count: int, *, nan: bool = False) -> tuple[Latents, Tensor]:
        """So many samples of z from the guide, and log q(z|x), shape ``(count, N)``.

        Without `nan` no number raises FloatingPointError, here and below.
        """
        trace = self._traced("guide", self._programs["guide"], x, count)
        return self._values(trace), self._log_prob(trace, trace.nodes, nan)

    def draw_prior(self, x: Tensor, count: int) -> tuple[Latents, Tensor]:
        """So many samples of z from the model for each x, and log p(x|z), ``(count, N)``."""
        trace = self._traced("model", self._programs["model"], x, count)
        return self._values(trace), self._log_prob(trace, self._observed())

    def score_guide(self, x: Tensor, z: Latents) -> Tensor:
        """log q(z|x) of samples of z, shape ``(samples, N)``."""
        return self._log_prob(trace := self._conditioned("guide", x, z), trace.nodes)

    def score(self, x: Tensor, z: Latents, *, nan: bool = False) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z) of samples of z, each of shape ``(samples, N)``."""
        trace = self._conditioned("model", x, z)
        return (
            self._log_prob(trace, self.latents, nan),
            self._log_prob(trace, self._observed(), nan),
        )

    def check(self, x: Tensor, z: Latents) -> None:
        """Raises ValueError unless x is on the supports that its sites have at samples of z."""
        self._check_observed(self._conditioned("model", x, z))

    def priors(self, x: Tensor, z: Latents) -> dict[str, Distribution]:
        """The distributions of the model's latent sites, at some values of them."""
        trace = self._conditioned("model", x, z)
        return {name: trace.nodes[name]["fn"] for name in self.latents}

    def part(self, z: Latents, samples: slice, examples: slice) -> Latents:
        """Some samples of some examples."""
        index = (samples, *[slice(None)] * (self.example_axis - 1), examples)
        return {name: value[index] for name, value in z.items()}

    @property
    def example_axis(self) -> int:
        """The dimension of the examples in values of latents, whose first is that of samples."""
        return self._data_dim - self._sample_dim

    def per_pair(self, value: Tensor) -> Tensor:
        """Sums all that belongs to the same sample and example, to shape ``(samples, N)``."""
        others = [dim for dim in range(1, value.dim()) if dim != self.example_axis]
        return value.sum(others) if others else value

    def beside(self, pairs: Tensor, value: Tensor) -> Tensor:
        """Numbers of each ``(samples, N)`` in a shape that broadcasts with a latent's value."""
        shape = [1] * value.dim()
        shape[0], shape[self.example_axis] = pairs.shape
        return pairs.reshape(shape)

    def _conditioned(self, program: str, x: Tensor, z: Latents) -> Trace:
        conditioned = poutine.condition(self._programs[program], data=dict(z))
        return self._traced(program, conditioned, x, len(z[self.latents[0]]))

    def _traced(
        self, program: str, call: Callable[[Tensor], Any], x: Tensor, count: int | None = None
    ) -> Trace:
        """The sites of a call, held against those of the first."""
        return self._checked(program, self._called(call, x, count), x)

    def _called(self, call: Callable[[Tensor], Any], x: Tensor, count: int | None = None) -> Trace:
        traced = poutine.trace(call)
        if count is None:
            return traced.get_trace(x)
        with pyro.plate(_SAMPLES, count, dim=self._sample_dim):
            return traced.get_trace(x)

    def _checked(self, program: str, trace: Trace, x: Tensor) -> Trace:
        trace = prune_subsample_sites(trace)
        for name in [n for n, site in trace.nodes.items() if not _counts(site)]:
            trace.remove_node(name)
        for name, site in trace.nodes.items():
            _check_site(program, name, site, len(x))
        sites = self._sites.setdefault(program, tuple(trace.nodes))
        if set(sites) != set(trace.nodes):
            raise _Refused(
                f"{program}: has the sites {_list(trace.nodes)}, and had {_list(sites)} at its "
                "first call, expected the same at each"
            )
        return trace

    def _check_apart(self, pair: Tensor) -> None:
        """Raises ValueError where log-probabilities depend on other examples, or on the place."""
        with _explained("fail on the first two examples"):
            z, _ = self.draw(pair, 1, nan=True)
            # Copies: a flow that remembers what it drew would score a part of it otherwise.
            z = {name: value.clone() for name, value in z.items()}
            trace = self._conditioned("model", pair, z)
        self._check_observed(trace)
        with _explained("fail on the first two examples"):
            both = self._scores(pair, z)
            for index in range(2):
                own = slice(index, index + 1)
                alone = self._scores(pair[own], self.part(z, slice(None), own))
                for name in both.keys() & alone.keys():
                    beside = both[name][..., own]
                    if beside.shape != alone[name].shape or not torch.allclose(
                        beside, alone[name], rtol=1e-3, atol=1e-3, equal_nan=True
                    ):
                        raise _Refused(
                            f"model, guide: {name} of example {index} is {_numbers(alone[name])}, "
                            f"and {_numbers(beside)} in a batch of two, expected the same: each "
                            "example by itself and wherever it stands, no batch norm or dropout "
                            "in train mode"
                        )

    def _scores(self, x: Tensor, z: Latents) -> dict[str, Tensor]:
        """log p(x, z), and log q(z|x) where the guide can score what it did not just draw.

        Without point masses, which a rounding moves off their point.
        """
        model = self._conditioned("model", x, z)
        scores = {"log p(x, z)": self._log_prob(model, _densities(model), nan=True)}
        try:
            guide = self._conditioned("guide", x, z)
            scores["log q(z|x)"] = self._log_prob(guide, _densities(guide), nan=True)
        except Exception:  # flows without an inverse raise what they like
            pass
        return scores

    def _check_latents(self, drawn: Trace, guide: Trace, model: Trace) -> None:
        """Raises ValueError unless the guide draws what the model does, all of it, as densities.

        Arguments:
            drawn: Of the model alone.
            guide, model: Of the guide, and of the model given its latents.
        """
        names = set(drawn.stochastic_nodes)
        for name in sorted(names ^ set(self.latents)):
            here, there = ("model", "guide") if name in names else ("guide", "model")
            raise ValueError(
                f'site "{name}": latent in the {here}, and not in the {there}, expected the same '
                "latents in both"
            )
        if not names:
            raise ValueError("model: has no latent sites, so that there is nothing to estimate")
        if not set(drawn.nodes) - names:
            raise ValueError(
                "model: has no observed site, expected pyro.sample(..., obs=x) in it, of what x is"
            )
        for name in self.latents:
            q, p = guide.nodes[name]["fn"], model.nodes[name]["fn"]
            if "Delta" in describe(q) and "Delta" not in describe(p):
                raise ValueError(
                    f'site "{name}": the guide has {describe(q)}, expected a density: a point '
                    "mass has no importance weights"
                )
            try:
                supports = support_of(q), support_of(p)
            except NotImplementedError:
                continue  # a distribution that does not say where it lives
            if not same_support(*supports):
                raise ValueError(
                    f'site "{name}": the guide\'s support is {describe_support(supports[0])}, '
                    f"expected the model's, {describe_support(supports[1])}"
                )

    def _find_plates(self, *traces: Trace) -> None:
        frames = {
            frame
            for trace in traces
            for site in trace.nodes.values()
            for frame in site["cond_indep_stack"]
        }
        dims = sorted({frame.dim for frame in frames if frame.name == PLATE})
        if len(dims) > 1:
            raise ValueError(
                f'plate "{PLATE}": has the dimensions {dims}, expected one in model and guide'
            )
        (self._data_dim,) = dims
        self._sample_dim = min(frame.dim for frame in frames) - 1

    def _check_observed(self, model: Trace) -> None:
        for name in self._observed():
            _check_observed(name, model.nodes[name])

    def _observed(self) -> list[str]:
        """The model's other sites, in their order, in which they are summed."""
        return [name for name in self._sites["model"] if name not in self.latents]

    def _values(self, trace: Trace) -> Latents:
        return {name: trace.nodes[name]["value"] for name in self.latents}

    def _log_prob(self, trace: Trace, names: Collection[str], nan: bool = False) -> Tensor:
        """The sum over sites and over all plates but those of samples and examples."""
        total: Tensor | float = 0.0
        for name in names:
            site = trace.nodes[name]
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            log_prob = scale_and_mask(log_prob, mask=site["mask"])
            if not nan and torch.isnan(log_prob).any():
                raise FloatingPointError(
                    f'site "{name}": a log-probability is NaN ({site["fn"]}), expected numbers or '
                    "-inf"
                )
            if log_prob.dim() > -self._sample_dim:
                raise _Refused(
                    f'site "{name}": has a log-probability of shape {tuple(log_prob.shape)} '
                    "outside of all plates, expected its dimensions in plates or in the event: "
                    ".to_event(1) makes one of an event"
                )
            kept = (self._sample_dim, self._data_dim)
            others = [dim for dim in range(-log_prob.dim(), 0) if dim not in kept]
            total = total + (log_prob.sum(others) if others else log_prob)
        return torch.as_tensor(total)


_EXPECTED = (
    f'a plate "{PLATE}" of the size of x with any number of dimensions to its left, and masks and '
    "all else that is used to come from x or to be the same for each example; what is not seen is "
    "masked, and in x some number that the support holds"
)


class _Refused(ValueError):
    """A program that was looked at, and is none that has weights."""


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Says of an error inside of a program what was asked of it."""
    try:
        yield
    except _Refused:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ValueError(f"model, guide: {what} ({error}), expected {_EXPECTED}") from error


def _densities(trace: Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if "Delta" not in describe(site["fn"])]


def _numbers(value: Tensor) -> str:
    return ", ".join(f"{number:.6g}" for number in value.flatten().tolist())


def _counts(site: Mapping[str, Any]) -> bool:
    """Whether a node of a trace has a log-probability of its own."""
    return site["type"] == "sample" and not site["infer"].get("_deterministic")


def _check_site(program: str, name: str, site: Mapping[str, Any], size: int) -> None:
    kind = "observed" if site["is_observed"] else "latent"
    where = f'{program}: the {kind} site "{name}"'
    frames = [frame for frame in site["cond_indep_stack"] if frame.name == PLATE]
    if not frames:
        raise _Refused(
            f'{where} is outside of the plate "{PLATE}", expected all sites in it: only what is '
            "drawn for each example has a weight for each"
        )
    if not all(frame.vectorized for frame in site["cond_indep_stack"]):
        raise _Refused(
            f'{where} is in a loop over a plate, expected "with pyro.plate(...):" around it'
        )
    scale = site["scale"]
    if isinstance(scale, Tensor) or scale != 1:
        raise _Refused(
            f"{where} has a log-probability scaled by {scale}, expected no poutine.scale and no "
            "subsampled plate: a scaled one is no log-density"
        )
    if frames[0].size != size:
        raise _Refused(
            f'plate "{PLATE}": has {frames[0].size} examples for {size} of x, expected '
            f'pyro.plate("{PLATE}", len(x)): examples come in blocks'
        )


def _check_observed(name: str, site: Mapping[str, Any]) -> None:
    """Raises ValueError unless an observed value is on its site's support, or is masked."""
    fn, value = site["fn"], site["value"]
    inner = fn
    while inner is not None and not isinstance(inner, MaskedDistribution):
        inner = getattr(inner, "base_dist", None)
    if inner is not None:
        return  # what a distribution's own mask leaves out it alone knows
    mask = True if site["mask"] is None else site["mask"]
    if not value.numel():
        return  # a factor
    if mask is not False and not (fn.support.check(value) | ~torch.as_tensor(mask)).all():
        check_on_support(name, value, fn.support)


def _list(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
