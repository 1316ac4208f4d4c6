"""One module per engine; each is imported only when a bundle asks for it."""
