"""Qualcomm chips with a Hexagon NPU: the numbers that their toolchain wants, and what they take.

The toolchain takes any architecture and many wrong numbers without a word, so nothing here is
guessed. Each pair of ``soc_model`` and ``htp_arch`` was compared with the architecture that
Qualcomm's compiler 2.51 writes into a context binary for that number; a test does so again.
"""

from __future__ import annotations

from typing import NamedTuple

from edgessl.errors import TargetError, nearest

__all__ = ["SOCS", "Soc", "find_soc", "soc_of_kernel"]

_SDK = "https://docs.qualcomm.com/bundle/publicresource/80-63442-10/topics/QNN_general_overview.md"
_EXECUTORCH = (
    "https://github.com/pytorch/executorch/blob/main/backends/qualcomm/serialization/qc_schema.py"
)
_INT8_ONLY = ("int8",)
_FROM_V69 = ("fp16", "int8", "a16w8")


class Soc(NamedTuple):
    """One chip.

    Attributes:
        marketing_name: What it is sold as.
        soc_model: Number of the chip in the QNN SDK (``Qnn_SocModel_t``); None where it is not
            published, then the architecture alone is set.
        htp_arch: Version of the Hexagon tensor processor.
        precisions: What the NPU computes in.
        kernel_ids: Numbers in ``/sys/devices/soc0/soc_id`` (Linux: ``dt-bindings/arm/qcom,ids.h``)
            of this chip and of its variants with the same NPU.
        kernel_names: Names in ``/sys/devices/soc0/machine`` of the same.
        sources: Where the numbers are published.
    """

    marketing_name: str
    soc_model: int | None
    htp_arch: int
    precisions: tuple[str, ...]
    kernel_ids: tuple[int, ...]
    kernel_names: tuple[str, ...]
    sources: tuple[str, ...]


SOCS: dict[str, Soc] = {
    "QCS6490": Soc(
        marketing_name="Dragonwing QCS6490",
        soc_model=93,
        htp_arch=68,
        precisions=_INT8_ONLY,
        kernel_ids=(497, 498),
        kernel_names=("QCM6490", "QCS6490"),
        sources=(_EXECUTORCH, _SDK),
    ),
    "QCS8550": Soc(
        marketing_name="Dragonwing QCS8550",
        soc_model=66,
        htp_arch=73,
        precisions=_FROM_V69,
        kernel_ids=(603, 604),
        kernel_names=("QCM8550", "QCS8550"),
        sources=(_SDK,),
    ),
    "SC8380XP": Soc(
        marketing_name="Snapdragon X Elite",
        soc_model=60,
        htp_arch=73,
        precisions=_FROM_V69,
        kernel_ids=(555,),
        kernel_names=("SC8380XP", "X1E80100"),
        sources=(_SDK,),
    ),
    "SM8650": Soc(
        marketing_name="Snapdragon 8 Gen 3",
        soc_model=57,
        htp_arch=75,
        precisions=_FROM_V69,
        kernel_ids=(557,),
        kernel_names=("SM8650",),
        sources=(_EXECUTORCH, _SDK),
    ),
    "SM8750": Soc(
        marketing_name="Snapdragon 8 Elite",
        soc_model=69,
        htp_arch=79,
        precisions=_FROM_V69,
        kernel_ids=(618,),
        kernel_names=("SM8750",),
        sources=(_EXECUTORCH, _SDK),
    ),
}
"""Name that Qualcomm's SDK gives the chip → what is known of it."""


def find_soc(name: str) -> Soc:
    """One chip.

    Raises:
        TargetError: It is not in the table; the message names the nearest.
    """
    if name not in SOCS:
        raise TargetError(f"unknown Qualcomm chip '{name}'; {nearest(name, SOCS)}")
    return SOCS[name]


def soc_of_kernel(*, soc_id: str, machine: str) -> str | None:
    """Name of the chip that the kernel reports in ``/sys/devices/soc0``; None if unknown."""
    number = int(soc_id) if soc_id.isdecimal() else None
    for name, soc in SOCS.items():
        if number in soc.kernel_ids or machine.upper() in soc.kernel_names:
            return name
    return None
