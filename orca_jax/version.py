"""The version, in one place: the build reads it from here, and so does `orca_jax.__version__`."""

__version__ = "0.1.0.dev0"
