"""Pretraining methods, one module each; found by name through `edgessl.pretraining.METHODS`."""
