"""Samples in: sources, decoding, augmentation, loading."""

__all__: list[str] = []
