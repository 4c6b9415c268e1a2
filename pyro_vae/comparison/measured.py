"""Gradients and memory of all objectives, measured along one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyro.infer import ELBO

from pyro_vae.datasets import Pixels, to_pixels
from pyro_vae.gradients import Gradient, advanced, measure, peak_of_step
from pyro_vae.pair import Pair
from pyro_vae.training import Callback
from pyro_vae.utils.context import Examples
from pyro_vae.utils.modules import device_of, dtype_of

__all__ = ["Measured"]


@dataclass
class Measured:
    """Measures gradients and memory of all objectives in one run, at the run's parameters.

    Attributes:
        objectives: The objectives by name.
        epochs: The epochs after which gradients are measured; 0 is before training.
        steps: The number of training steps in an epoch.
        draws: The number of gradients for each objective.
        gradients: The measured gradients by epoch, objective and part.
        peaks: The peak memory of a step in bytes, by objective.
    """

    objectives: Mapping[str, ELBO]
    epochs: Sequence[int]
    steps: int
    draws: int
    gradients: dict[int, dict[str, dict[str, Gradient]]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def along(self, vae: Pair, batch: Examples, pixels: Pixels | None) -> Callback:
        """Measures on a batch before a run; returns a callback that does so during the run."""
        x, *context = batch
        if pixels is not None:
            x = to_pixels(x, pixels, seed=0).to(dtype_of(vae))
        batch = tuple(entry.to(device_of(vae)) for entry in (x, *context))

        def measure_after(epoch: int) -> None:
            if epoch in self.epochs:
                objectives = advanced(self.objectives, epoch * self.steps)
                self.gradients[epoch] = measure(vae, batch, objectives, self.draws)

        measure_after(0)
        self.peaks = {
            name: peak_of_step(vae, batch, each) for name, each in self.objectives.items()
        }
        return lambda vae, history: measure_after(int(history.epoch[-1]))
