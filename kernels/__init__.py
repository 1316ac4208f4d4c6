"""Contrastive losses over a global batch: `nt_xent` and its module.

This package imports torch and nothing of edgessl, so that it can be used on its own.
"""

from edgessl.kernels.gather import gather_rows
from edgessl.kernels.nt_xent import NTXentLoss, nt_xent

__all__ = ["NTXentLoss", "gather_rows", "nt_xent"]
