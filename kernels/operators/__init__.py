"""The losses as operators of `torch.library`, with their gradients."""
