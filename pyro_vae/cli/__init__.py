"""The command ``pyro-vae``, one file a subcommand: it reads options, calls the package, prints."""

from pyro_vae.cli.main import app, main

__all__ = ["app", "main"]
