"""A mounted folder whose contents live, encrypted and erasure-coded, on your friends' computers."""

__version__ = "0.1.0"
