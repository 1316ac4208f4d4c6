"""The vocabulary of hardware facts: name → unit. A name that is not here is an error."""

from __future__ import annotations

__all__ = ["FACTS"]

FACTS: dict[str, str] = {
    # A multiplication and an addition are two operations; 1 TOPS is 10^12 of them a second.
    "peak_int8_tops": "TOPS, dense",
    "peak_int8_sparse_tops": "TOPS, 2:4 sparse weights",
    "peak_int8_total_sparse_tops": "TOPS, 2:4 sparse weights, GPU and DLA together",
    "peak_fp16_tflops": "TFLOPS, dense",
    "peak_fp4_sparse_tflops": "TFLOPS, 2:4 sparse weights",
    "dla_peak_int8_sparse_tops": "TOPS, 2:4 sparse weights, all DLA cores",
    "dla_cores": "cores",
    "dla_sram_bytes": "bytes per DLA core",
    "memory_bytes": "bytes, the least that is sold",
    "memory_options_bytes": "bytes, all that are sold",
    "memory_bandwidth_gb_s": "GB/s",
    "memory_is_shared": "yes or no: the accelerator uses the system's memory",
    "vtcm_bytes": "bytes of tightly coupled memory",
    "power_modes_w": "W, selectable limits of the module",
    "power_range_w": "W, least and most of the module",
    "cpu_cores": "cores",
    "cpu_clock_ghz": "GHz",
    "vector_bits": "bits",
    "u8s8_saturates_without_vnni": "yes or no: two 8-bit products are added in 16 bits",
    "instructions_per_int8_dot_product": "instructions",
    "oldest_compute_capability": "CUDA compute capability",
}
"""Units say dense or sparse: vendors print the sparse figure, which dense weights never reach."""
