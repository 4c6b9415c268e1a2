"""The diagnosis of a trained pair: what went wrong, in one line each, and what to try."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent

from pyro_vae.distributions import Observed, elementwise
from pyro_vae.evaluation.blocks import EXAMPLES, Block, blocks, chunks
from pyro_vae.evaluation.criticism import active_units
from pyro_vae.evaluation.inputs import check_arguments, mean_and_stderr, opened
from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.evaluation.memory_limit import MaxBytes
from pyro_vae.evaluation.simulation import observed_site
from pyro_vae.pair import Pair
from pyro_vae.utils.checks import check_count, kind
from pyro_vae.utils.context import Batch, Examples, rows
from pyro_vae.utils.random import seeded

_SATURATED = 24 * math.log(2)  # 16.6, the logit from which on float32 sigmoid is 1 exactly
_PER_ACTIVE, _MOST_UNITS = 10, 50  # units for each active one; more units do not count
_LEAST_GAIN = 0.1  # of an example's own z over another's, in nats
_SATURATED_SHARE = 0.01  # of the reconstruction cost, from elements that are certain and wrong
_RISE_SHARE, _GAP_SHARE = 0.01, 0.25  # of |reconstruction| + KL
_NOISES = 4  # what a rise is to exceed, in standard deviations of the noise
_EPOCHS = 5  # the shortest history that shows a trend
_OWN, _OTHER, _PARTNERS = 0, 1, 2  # random streams


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong in a training.

    Attributes:
        name: ``"collapsed latents"``, ``"a decoder that ignores z"``, ``"saturated logits"`` or
            ``"train and test apart"``.
        text: What was measured, in one line.
        advice: What to try.
        values: The measured numbers by name. Costs and gains are in nats per example.

    Example:
        >>> from pyro_vae.evaluation import diagnose
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=16)
        >>> finding = diagnose(vae, torch.eye(16)).findings[0]
        >>> finding.name, finding.values["active"]
        ('collapsed latents', 0)
    """

    name: str
    text: str
    advice: str
    values: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.name}: {self.text}; try {self.advice}"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The findings about a trained pair; printed, one line each.

    It is true where there is a finding.

    Attributes:
        findings: What went wrong; empty for a good run.
        measured: All measured numbers by name, also those without a finding, as in
            :attr:`Finding.values`.

    Example:
        >>> from pyro_vae.evaluation import Diagnosis
        >>> good = Diagnosis((), {"active": 18.0})
        >>> good, bool(good)
        (nothing found, False)
    """

    findings: tuple[Finding, ...]
    measured: Mapping[str, float]

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing found"


def diagnose(
    vae: Pair,
    x: Batch,
    *,
    history: Mapping[str, Sequence[float]] | None = None,
    num_samples: int = 10,
    seed: int | None = 0,
    max_bytes: MaxBytes = "auto",
) -> Diagnosis:
    r"""Diagnoses a trained pair: says what went wrong, in one line each, and what to try.

    * **Collapsed latents.** A unit is active if :math:`\mathrm{Var}_x(E_{q(z|x)}[z_u]) > 0.01`,
      see :func:`active_units`. A finding if no unit is active, or fewer than a tenth of the
      units, of which at most 50 count. Inactive units alone are no fault: a good VAE with 50
      latents leaves about half of them at the prior, at no cost. Left out for a discrete latent.
      Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 5.2.
    * **A decoder that ignores z.** The gain of an example's own z over that of another example j,
      with the context of the first,

      .. math:: \frac1N \sum_i E_{q(z_i|x_i)\, q(z_j|x_j)}[\log p(x_i|z_i) - \log p(x_i|z_j)]

      A finding if it is below 0.1 nats or below two standard errors over examples. For data of
      the model and an exact posterior, it is the mutual information of x and z plus their lautum
      information.
      Source: Bowman et al. (2016), arXiv 1511.06349, section 3.1; Palomar and Verdú (2008), Lautum
      Information.
    * **Saturated logits.** The nats that an example loses at elements to whose value the model
      gives a probability below :math:`2^{-24}`. These are logits beyond 16.6 of the wrong sign,
      where float32 ``sigmoid`` is 1 for the other value. A right pixel with such a logit, as the
      margin of MNIST has, costs nothing. A finding if they are more than 1 % of the reconstruction
      cost :math:`-E_q[\log p(x|z)]`. Only for a Bernoulli or categorical distribution of x that is
      all of log p(x|z), without masks.
      Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 6.2.2.2.
    * **Train and test apart.** From a history of 5 epochs or more with a validation cost, or else
      a test cost, with medians of 3 epochs. A finding if the cost has risen from its minimum by
      more than 1 % of ``|reconstruction| + KL`` and by four times its noise, or if it exceeds the
      training's reconstruction + KL by more than 25 % of the same. The noise is that of the
      second differences of the last half of the epochs. After a stop by a callback such as
      :class:`EarlyStopping`, the rise is not counted, and the gap is that of the best epoch.
      Source: Prechelt (1998), Early Stopping: But When?, section 2 (the generalization loss).

    Arguments:
        vae: A VAE or any :class:`Pair`; it is evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)`` on the likelihood's support, with N of 2 or more, or a
            tuple of them and their context. Some hundred held-out examples are enough.
        history: The history that ``fit`` returned, or a mapping with its columns; None leaves
            the last finding out.
        num_samples: The number of samples of z for each example.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.
        max_bytes: A bound on the bytes that one step of the model allocates, as in :func:`elbo`.

    Returns:
        The findings, in the order above, and all measured numbers.

    Raises:
        TypeError: `vae` is not a pair, x has another dtype, or `history` is not a mapping.
        ValueError: x does not fit the pair, is off the likelihood's support or has one example
            only; `history` lacks the cost, or its columns differ in length; or an argument is out
            of range.
        FloatingPointError: A log-probability is NaN.

    Example:
        >>> from pyro_vae.evaluation import diagnose
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=16)
        >>> found = diagnose(vae, torch.eye(16))  # of an untrained VAE
        >>> [finding.name for finding in found.findings]
        ['collapsed latents', 'a decoder that ignores z']
    """
    check_count("num_samples", num_samples)
    if len(check_arguments(x, seed, max_bytes)[0]) < 2:
        raise ValueError("x: got one example, expected two or more, to compare their latents")
    columns = _columns(history)
    decoded = _decode(vae, x, num_samples, seed, max_bytes)
    values = [
        *_measured(vae, x, decoded, seed),
        _divergence(columns, getattr(history, "ended", None) == "stopped"),
    ]
    checks = _collapsed, _ignored, _saturated, _apart
    found = [check(each) for check, each in zip(checks, values, strict=True) if each]
    measured = {name: value for each in values for name, value in each.items()}
    return Diagnosis(tuple(finding for finding in found if finding is not None), measured)


@dataclass
class _Decoded:
    """What decoding an example's own z, and that of another, gives: each of shape ``(N,)``."""

    own: Tensor  # E log p(x_i|z_i)
    gain: Tensor  # its difference from E log p(x_i|z_j)
    lost: Tensor  # the nats of elements that are certain and wrong; NaN where they are not known
    wrong: Tensor  # their number
    discrete: bool  # whether a latent is discrete


def _decode(
    vae: Pair, x: Batch, num_samples: int, seed: int | None, max_bytes: MaxBytes
) -> _Decoded:
    found: list[list[Tensor]] = [[], [], [], []]
    with opened(vae, x) as (densities, batch):
        partner = _partners(len(batch[0]), seed, batch[0].device)
        with seeded(0, device=batch[0].device):
            site, discrete = _look(densities, rows(batch, slice(1)))
        for block in blocks(densities, batch, seed, max_bytes, desc="diagnosis"):
            first = block.index * EXAMPLES
            others = rows(batch, partner[first : first + len(block.x)])
            parts = [
                _decode_chunk(block, others, site, start, count)
                for start, count in chunks(num_samples)
            ]
            for kept, each in zip(found, zip(*parts, strict=True), strict=True):
                kept.append(torch.cat(each).double().mean(0))
    own, gain, lost, wrong = (torch.cat(each) for each in found)
    return _Decoded(own, gain, lost, wrong, discrete)


def _decode_chunk(
    block: Block, others: Examples, site: str | None, start: int, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of :class:`_Decoded` for some samples of a block, shape ``(samples, N)``."""
    densities = block.densities
    with block.stream(start, _OWN):
        z, _ = densities.draw(block.batch, count)
    with block.stream(start, _OTHER):
        other, _ = densities.draw(others, count)
    own = block.score(z, check=start == 0)[1]
    elsewhere = block.score(other)[1]
    gain = torch.where(own == elsewhere, 0.0, own - elsewhere)  # of two infinite ones too
    unknown = torch.full_like(own, math.nan)
    if site is None:
        return own, gain, unknown, unknown

    def elements(batch: Examples, z: Latents) -> tuple[Tensor, ...]:
        return _certain_and_wrong(densities, site, batch, z)

    lost, wrong, total = block.in_steps(elements, z)
    # A mask or another observed site makes the elements less or more than log p(x|z).
    whole = torch.isclose(total, own, rtol=1e-3, atol=1e-2).all()
    return own, gain, *((lost, wrong) if whole else (unknown, unknown))


def _certain_and_wrong(
    densities: LogDensities, site: str, batch: Examples, z: Latents
) -> tuple[Tensor, Tensor, Tensor]:
    """The nats and the number of elements below 2**-24, and log p of all: ``(samples, N)``."""
    with seeded(0, device=batch[0].device):
        value = densities.observations(batch)[site]
    log_p_x = elementwise(densities.distributions("model", batch, z)[site])
    assert log_p_x is not None  # They are Bernoullis or categoricals.
    log_p = log_p_x(value.movedim(0, densities.example_axis - 1))
    wrong = log_p < -_SATURATED
    lost = torch.where(wrong, -log_p, 0.0)
    return (
        densities.sum_per_draw(lost),
        densities.sum_per_draw(wrong.to(log_p.dtype)),
        densities.sum_per_draw(log_p),
    )


def _innermost(p_x: torch.distributions.Distribution) -> torch.distributions.Distribution:
    while isinstance(p_x, Independent | Observed):
        p_x = p_x.base if isinstance(p_x, Observed) else p_x.base_dist
    return p_x


def _look(densities: LogDensities, one: Examples) -> tuple[str | None, bool]:
    """The site of x if its elements have logits, and whether a latent is discrete."""
    z, _ = densities.draw(one, 1)
    guide = densities.distributions("guide", one, z)
    discrete = any(guide[name].support.is_discrete for name in densities.latents)
    try:
        site = observed_site(densities, one)
    except ValueError:  # several sites, of which none is x
        return None, discrete
    p_x = _innermost(densities.distributions("model", one, z)[site])
    return site if isinstance(p_x, Bernoulli | Categorical) else None, discrete


def _partners(count: int, seed: int | None, device: torch.device) -> Tensor:
    """Another example for each, at random: the next one in a random order."""
    with seeded(seed, _PARTNERS):
        order = torch.randperm(count)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner.to(device)


def _measured(vae: Pair, x: Batch, decoded: _Decoded, seed: int | None) -> list[dict[str, float]]:
    """The numbers of the first three findings; empty where one is left out."""
    units: dict[str, float] = {}
    if not decoded.discrete:
        found = active_units(vae, x, seed=seed)
        units = {"active": found.count, "units": len(found.active), "threshold": found.threshold}
    mean, stderr = mean_and_stderr(decoded.gain)
    saturated: dict[str, float] = {}
    if not decoded.lost.isnan().any():
        saturated = {
            "saturated_wrong": decoded.wrong.mean().item(),
            "saturated_nats": decoded.lost.mean().item(),
            "reconstruction": -decoded.own.mean().item(),
        }
    return [units, {"gain": mean, "gain_stderr": stderr}, saturated]


def _columns(history: Mapping[str, Sequence[float]] | None) -> dict[str, list[float]]:
    """The costs of a history: held out, and in training that of the ELBO and its size."""
    if history is None:
        return {}
    if not isinstance(history, Mapping):
        raise TypeError(
            f"history: got {kind(history)}, expected the History that fit returns, or a mapping "
            "of its columns"
        )
    terms = ["reconstruction", "kl"] if {"reconstruction", "kl"} <= set(history) else ["cost"]
    held_out = [name for name in ("validation_cost", "test_cost") if name in history]
    if terms[0] not in history:
        raise ValueError(
            f"history: got the columns {', '.join(history) or 'none'}, expected reconstruction "
            "and kl, or cost"
        )
    lengths = {name: len(history[name]) for name in (*terms, *held_out)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history: got columns of lengths {lengths}, expected equal ones")
    if not held_out:
        return {}
    parts = list(zip(*(history[name] for name in terms), strict=True))
    train, size = map(sum, parts), (sum(map(abs, each)) for each in parts)
    return {held_out[0]: list(history[held_out[0]]), "train": list(train), "size": list(size)}


def _divergence(columns: Mapping[str, list[float]], stopped: bool) -> dict[str, float]:
    if not columns or len(columns["train"]) < _EPOCHS:
        return {}
    held_out, train, size = columns.values()
    smooth = [statistics.median(held_out[i - 2 : i + 1]) for i in range(2, len(held_out))]
    best = smooth.index(min(smooth))
    at = best if stopped else len(smooth) - 1
    # The second differences of independent noise have 6 times its variance, whatever the trend.
    half = held_out[min(len(held_out) // 2, len(held_out) - 3) :]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(half, half[1:], half[2:], strict=False)]
    return {
        next(iter(columns)): smooth[at],
        "train_cost": statistics.median(train[at : at + 3]),
        "cost_size": statistics.median(size[at : at + 3]),
        "cost_rise": smooth[at] - smooth[best],
        "cost_noise": statistics.median(bends) / (0.6745 * math.sqrt(6)),
        "best_epoch": best + 2.0,  # the middle one of three
    }


def _collapsed(values: Mapping[str, float]) -> Finding | None:
    active, units = values["active"], values["units"]
    if _PER_ACTIVE * active >= min(units, _MOST_UNITS):
        return None
    return Finding(
        "collapsed latents",
        f"{units - active:.0f} of {units:.0f} dimensions carry nothing (their posterior mean "
        f"varies over x by less than {values['threshold']:g})",
        "objectives.warm_up or objectives.free_bits",
        values,
    )


def _ignored(values: Mapping[str, float]) -> Finding | None:
    gain, stderr = values["gain"], values["gain_stderr"]
    if gain == math.inf or (gain >= _LEAST_GAIN and gain > 2 * stderr):
        return None
    return Finding(
        "a decoder that ignores z",
        f"the z of another example explains x as well as its own, to {gain:.3f} ± {stderr:.3f} "
        "nats",
        "objectives.warm_up, objectives.free_bits or a decoder with less capacity",
        values,
    )


def _saturated(values: Mapping[str, float]) -> Finding | None:
    lost, cost = values["saturated_nats"], values["reconstruction"]
    if not lost > _SATURATED_SHARE * cost:
        return None
    return Finding(
        "saturated logits",
        f"{values['saturated_wrong']:.2g} elements an example are certain and wrong (a "
        f"probability under 2^-24), and cost {lost:.2f} of {cost:.2f} nats",
        "optim.Adam(weight_decay=1e-4), a lower learning rate or a smaller network",
        values,
    )


def _apart(values: Mapping[str, float]) -> Finding | None:
    column = next(iter(values))
    rise, gap = values["cost_rise"], values[column] - values["train_cost"]
    size = values["cost_size"]
    if rise > _RISE_SHARE * size and rise > _NOISES * values["cost_noise"]:
        text = (
            f"{column} has risen by {rise:.2f} nats since epoch {values['best_epoch']:.0f}, to "
            f"{values[column]:.2f}"
        )
    elif gap > _GAP_SHARE * size:
        text = (
            f"{column} is {values[column]:.2f} nats, {gap:.2f} above that of training "
            f"({100 * gap / size:.0f} %)"
        )
    else:
        return None
    advice = "training.EarlyStopping, a smaller network or dropout"
    return Finding("train and test apart", text, advice, values)
