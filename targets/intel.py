"""Intel NPUs: PCI device → OpenVINO's ``NPU_PLATFORM``."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NPU_PLATFORMS", "NPU_PLATFORM_OF_PCI", "NpuPlatform"]


class NpuPlatform(NamedTuple):
    """One generation.

    Attributes:
        codenames: Processors that have it.
        pci_ids: PCI device numbers under Intel's vendor number 0x8086, as in Linux'
            ``drivers/accel/ivpu/ivpu_drv.h``.
    """

    codenames: str
    pci_ids: tuple[str, ...]


NPU_PLATFORMS: dict[str, NpuPlatform] = {
    "3720": NpuPlatform("Meteor Lake, Arrow Lake", ("0x7d1d", "0xad1d")),
    "4000": NpuPlatform("Lunar Lake", ("0x643e",)),
    "5010": NpuPlatform("Panther Lake", ("0xb03e",)),
}

NPU_PLATFORM_OF_PCI = {
    pci_id: platform for platform, npu in NPU_PLATFORMS.items() for pci_id in npu.pci_ids
}
