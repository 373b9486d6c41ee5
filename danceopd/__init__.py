"""One flow-matching student that keeps what several frozen experts can do."""

__version__ = "0.1.0"
