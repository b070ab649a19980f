"""The version of the library: it goes into the headers of files."""

__all__ = ["__version__"]

__version__ = "0.2.0"
