"""The version of this package, which is that of the whole release."""

__version__ = "0.1.0"
