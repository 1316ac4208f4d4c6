"""One module per way to store samples."""

__all__: list[str] = []
