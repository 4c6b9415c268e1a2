"""``python -m pyro_vae``, the same as ``pyro-vae``."""

from pyro_vae.cli.main import main

main()
