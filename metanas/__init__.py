"""MetaNAS: adapt the architecture and the weights of a small network to a few labelled images."""

__version__ = "0.1.0"
