"""Shipped fakes: the world in which the engine is tested."""
