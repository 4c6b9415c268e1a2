"""Networks: modules from shape ``(*batch, *in_shape)`` to shape ``(*batch, *out_shape)``.

Any number of batch dimensions works, including none. A part of a VAE uses the ``forward`` of a
network and its attribute ``out_shape``, so any module with these two can take its place.
"""

from pyro_vae.networks.columns import Columns
from pyro_vae.networks.convolutional import ConvDecoder, ConvEncoder
from pyro_vae.networks.gated import GatedMLP, ResidualMLP
from pyro_vae.networks.masking import SelfMasking
from pyro_vae.networks.mlp import MLP, variance_scaling_, xavier_
from pyro_vae.networks.observed import Observed
from pyro_vae.networks.precision import bfloat16
from pyro_vae.networks.wrappers import Conditioned, Folded, Joint, Scaled
from pyro_vae.utils.shapes import Shape

__all__ = [
    "MLP",
    "Columns",
    "Conditioned",
    "ConvDecoder",
    "ConvEncoder",
    "Folded",
    "GatedMLP",
    "Joint",
    "Observed",
    "ResidualMLP",
    "Scaled",
    "SelfMasking",
    "Shape",
    "bfloat16",
    "variance_scaling_",
    "xavier_",
]


def __dir__() -> list[str]:
    return __all__
