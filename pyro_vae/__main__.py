"""``python -m pyro_vae``, the same as ``pyro-vae``."""

from pyro_vae.cli import main

main()
