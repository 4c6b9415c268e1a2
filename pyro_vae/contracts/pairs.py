"""Checks of any Pyro model and guide against data, before they are trained."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae.contracts.holes import check_no_nan, holes_named, observes_holes
from pyro_vae.contracts.sites import (
    PLATE,
    Refused,
    check_latent_sites,
    check_observed,
    check_order,
    explained,
    unchanged,
)
from pyro_vae.distributions import scored_support
from pyro_vae.utils.checks import kind
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.random import seeded

__all__ = ["check_observations", "check_programs", "check_training"]


@torch.no_grad()
def check_programs(
    pair: nn.Module,
    batch: Sequence[Tensor],
    whole: bool,
    sums_out: bool | str = False,
    in_order: bool = False,
) -> Trace:
    """Raises ValueError unless a model and guide can be trained on batches of examples.

    The modes of all modules and torch's random generators are unchanged afterwards.

    Arguments:
        pair: A module with the methods ``model`` and ``guide``.
        batch: The first batch, ``(x, *context)``.
        whole: Whether an epoch is one batch, which then may have sites outside of the plate.
        sums_out: Whether latents of the model alone are summed out, see `check_latent_sites`.
        in_order: Whether the guide has to draw its sites in the model's order.

    Returns:
        A trace of the guide, for one example.
    """
    one = tuple(entry[:1] for entry in batch)
    with evaluating(pair), poutine.block(), seeded(0, device=batch[0].device):
        for part in (batch, one):
            what = (
                "fail on the first batch" if part is batch else "fail on the first example alone"
            )
            with explained(what):
                drawn = prune_subsample_sites(poutine.trace(pair.model).get_trace(*part))
                guide, model = _traced(pair, part)
            check_latent_sites(drawn, guide, model, densities=False, sums_out=sums_out)
            if in_order:
                check_order(guide.stochastic_nodes, drawn.stochastic_nodes)
            for name in guide.stochastic_nodes:
                _check_baseline(pair, name, guide.nodes[name]["infer"].get("baseline", {}))
            for program, trace in (("guide", guide), ("model", model)):
                for name, site in trace.nodes.items():
                    if site["type"] == "sample" and not site["infer"].get("_deterministic"):
                        _check_plate(program, name, site, len(part[0]), whole)
    return guide


@torch.no_grad()
def check_training(pair: nn.Module, batch: Sequence[Tensor], what: str) -> None:
    """Raises ValueError unless a model and guide run on a batch in train mode.

    Modes, buffers and torch's random generators are unchanged afterwards.

    Arguments:
        pair: A module with the methods ``model`` and ``guide``.
        batch: Examples, ``(x, *context)``.
        what: What the batch is, for the message.
    """
    modes = [(module, module.training) for module in pair.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in pair.buffers()]
    pair.train()
    try:
        with poutine.block(), seeded(0, device=batch[0].device):
            _traced(pair, batch)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{what}, on which model or guide fails in train mode ({reason}), expected a pair "
            "that takes them; if it is for their number, another batch_size, or a DataLoader with "
            "drop_last=True"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
        for buffer, value in buffers:
            buffer.copy_(value)


@torch.no_grad()
def check_observations(pair: nn.Module, batch: Sequence[Tensor]) -> None:
    """Raises ValueError if a model observes values off the sets that its sites score.

    Masked values are left out. Modes and random generators are unchanged afterwards.

    Arguments:
        pair: A module with the methods ``model`` and ``guide``.
        batch: Examples, ``(x, *context)``.
    """
    with evaluating(pair), poutine.block(), seeded(0, device=batch[0].device):
        _, model = _traced(pair, batch)
        for name in model.observation_nodes:
            site = model.nodes[name]
            if not site["infer"].get("_deterministic"):
                check_observed(name, site, scored_support(site["fn"]))


def _traced(pair: nn.Module, batch: Sequence[Tensor]) -> tuple[Trace, Trace]:
    """Traces of the guide, and of the model at the guide's draw; a batch is not changed."""
    program: Any = pair.model
    takes = partial(observes_holes, program, batch)
    with unchanged(batch, "guide"), holes_named(batch[0], "guide", takes):
        guide = poutine.trace(pair.guide).get_trace(*batch)
    latents = [guide.nodes[name]["value"] for name in guide.stochastic_nodes]
    for value in latents:
        check_no_nan("guide", batch[0], value, takes)
    with unchanged([*batch, *latents], "model"):
        model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(*batch)
    return prune_subsample_sites(guide), prune_subsample_sites(model)


def _check_baseline(pair: nn.Module, name: str, baseline: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError unless a site's baseline for ``TraceGraph_ELBO`` is trained.

    That objective calls it after the guide, where nothing else would find its parameters.
    """
    network = baseline.get("nn_baseline")
    if network is not None and not isinstance(network, nn.Module):
        raise TypeError(
            f'site "{name}": got {kind(network)} as its nn_baseline, expected a module of the '
            "pair, or a baseline_value"
        )
    own = {id(p) for p in pair.parameters()}
    if network is not None and any(id(p) not in own for p in network.parameters()):
        raise ValueError(
            f'site "{name}": its nn_baseline is a module that the pair does not have, expected it '
            "as a keyword: Pair(model, guide, baseline=baseline)"
        )
    if baseline.get("use_decaying_avg_baseline"):
        raise ValueError(
            f'site "{name}": got use_decaying_avg_baseline, whose average Pyro keeps for each '
            "place in the batch and under one name for all pairs, expected a module of the pair "
            "as nn_baseline, or a baseline_value"
        )


def _check_plate(program: str, name: str, site: Mapping[str, Any], size: int, whole: bool) -> None:
    frames = [frame for frame in site["cond_indep_stack"] if frame.name == PLATE]
    if not frames and not whole:
        raise Refused(
            f'{program}: the site "{name}" is outside of the plate "{PLATE}", expected all sites '
            "in it, or all examples in one batch: a loss that counts such a site once a batch is "
            "not the ELBO of the data"
        )
    if frames and frames[0].size != size:
        raise Refused(
            f'plate "{PLATE}": got size {frames[0].size} for x of length {size}, expected '
            f'pyro.plate("{PLATE}", len(x)): x comes in batches of examples'
        )
