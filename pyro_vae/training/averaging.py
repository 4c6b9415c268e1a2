"""An exponential moving average of the parameters, beside the training."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pyro_vae.pair import Pair
from pyro_vae.utils.checks import check_flag, check_number, plain

__all__ = ["Averaging"]


class Averaging:
    r"""An exponential moving average of a pair's parameters, for ``fit(average=)``.

    After each step :math:`\bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta`, from
    :math:`\bar\theta = \theta` after the first step on. The training itself is as without it. The
    average is torch's ``AveragedModel``. Buffers are those of the pair.

    Source: Polyak and Juditsky (1992), SIAM Journal on Control and Optimization 30; the moving
    average is that of Kingma and Ba (2015), arXiv 1412.6980, section 7.2.

    Arguments:
        decay: d, from 0 to less than 1. The average is over about 1 / (1 - d) steps.
        evaluate: Whether validation and test cost are those of the averaged pair.

    Attributes:
        pair: The averaged pair, in eval mode, for evaluation or to be saved; None before the
            training.

    Raises:
        TypeError, ValueError: `decay` or `evaluate` is out of range.

    Example:
        >>> from pyro_vae.training import Averaging
        >>> vae, average = presets.build("pyro-mlp", z_dim=2, shape=1), Averaging(0.9)
        >>> history = fit(vae, torch.ones(160, 1), epochs=2, average=average)
        >>> type(average.pair).__name__
        'VAE'
    """

    def __init__(self, decay: float = 0.999, evaluate: bool = True) -> None:
        check_number("decay", decay, 0, below=1)
        check_flag("evaluate", evaluate)
        self.decay = float(plain(decay))
        self.evaluate = plain(evaluate)
        self.pair: Pair | None = None
        self._model: AveragedModel
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []

    def begin(self, pair: Pair) -> None:
        """Starts anew from the parameters of a pair, which are to be averaged."""
        self._model = AveragedModel(pair, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self._model.eval().requires_grad_(False)
        averaged = self.pair = cast(Pair, self._model.module)
        self._trained = pair
        self._first = True
        self._size = self._count(pair)
        by_type: dict[object, tuple[list[Tensor], list[Tensor]]] = {}
        for own, theirs in zip(averaged.parameters(), pair.parameters(), strict=True):
            group = by_type.setdefault((own.device, own.dtype), ([], []))
            group[0].append(own.detach())
            group[1].append(theirs.detach())
        self._groups = list(by_type.values())

    @staticmethod
    def _count(pair: Pair) -> int:
        return sum(1 for _ in pair.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters after a step into the average."""
        if self._count(self._trained) != self._size:
            raise ValueError(
                "average: got a pair that has made a parameter after its first call, expected all "
                "of them there from the start"
            )
        if self._first:
            self._model.update_parameters(self._trained)
            self._first = False
            return
        # AveragedModel counts its updates on the CPU, which a recorded step on a GPU cannot. The
        # count has no part in a moving average.
        assert self.pair is not None
        assert self._model.multi_avg_fn is not None
        for own, theirs in self._groups:
            self._model.multi_avg_fn(own, theirs, 1)
        for buffer, new in zip(self.pair.buffers(), self._trained.buffers(), strict=True):
            buffer.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a checkpoint."""
        assert self.pair is not None
        return {
            "first": self._first,
            "pair": dict(self.pair.state_dict()),
            "buffers": dict(self.pair.named_buffers()),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads a state from :meth:`state_dict`."""
        assert self.pair is not None
        self._first = state["first"]
        if self._first:
            self._model.n_averaged.zero_()  # The next update is a copy.
        self.pair.load_state_dict(state["pair"])
        for name, buffer in self.pair.named_buffers():
            if name in state["buffers"]:
                buffer.copy_(state["buffers"][name])
