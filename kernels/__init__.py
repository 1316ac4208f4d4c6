"""Contrastive losses that never store their similarity matrix: exact, in O(N·D) memory.

Triton kernels on a GPU, blocks of PyTorch elsewhere. This package imports torch and Triton and
nothing of edgessl, so that it can be used on its own.
"""

from edgessl.kernels.clip_loss import CLIPLoss, clip_loss
from edgessl.kernels.dcl import DCLLoss, dcl
from edgessl.kernels.gather import gather_rows
from edgessl.kernels.implementations import describe_implementation
from edgessl.kernels.info_nce_queue import InfoNCEQueueLoss, info_nce_queue
from edgessl.kernels.nt_xent import NTXentLoss, nt_xent
from edgessl.kernels.siglip_loss import SigLIPLoss, siglip_loss
from edgessl.kernels.supcon import SupConLoss, supcon

__all__ = [
    "CLIPLoss",
    "DCLLoss",
    "InfoNCEQueueLoss",
    "NTXentLoss",
    "SigLIPLoss",
    "SupConLoss",
    "clip_loss",
    "dcl",
    "describe_implementation",
    "gather_rows",
    "info_nce_queue",
    "nt_xent",
    "siglip_loss",
    "supcon",
]
