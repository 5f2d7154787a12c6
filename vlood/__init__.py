"""vlood tells which images a CLIP model does not know."""

__version__ = "0.1.0"
