"""Made-up machines: trees of system files, and programs that print what they are told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["fake_program", "jetson", "smi", "tree"]


def tree(root: Path, files: Mapping[str, object]) -> Path:
    """Write files below a root; the line ends as the kernel's do."""
    for name, content in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{content}\n")
    return root


def fake_program(folder: Path, name: str, script: str) -> Path:
    """A shell script in a folder that a test puts on the path."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / name
    place.write_text(f"#!/bin/sh\n{script}\n")
    os.chmod(place, 0o755)
    return place


def smi(folder: Path, answers: Mapping[str, str]) -> Path:
    """nvidia-smi that answers queries as given, and refuses fields that it does not know.

    Args:
        folder: Where it goes.
        answers: Query → what is printed: ``{"gpu=name": "Some GPU"}``; a file's name after
            ``@`` is printed instead, as it is then.
    """
    lines = ['case "$1" in']
    for query, answer in answers.items():
        said = (
            f"/bin/cat '{answer[1:]}'" if answer.startswith("@") else f"printf '%s\\n' '{answer}'"
        )
        lines.append(f"'--query-{query}') {said} ;;")
    lines += ['*) echo "Field is not a valid field to query."; exit 2 ;;', "esac"]
    return fake_program(folder, "nvidia-smi", "\n".join(lines))


def jetson(root: Path) -> Path:
    """An Orin Nano after ``jetson_clocks``, as far as it is looked at."""
    files: dict[str, object] = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
        "var/lib/nvpmodel/status": "pmode:0002",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 48312,
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": 51500,
        "sys/class/thermal/thermal_zone2/type": "PMIC-Die",
        "sys/class/thermal/thermal_zone2/temp": 100000,
        "sys/class/thermal/cooling_device0/type": "pwm-fan",
        "sys/class/thermal/cooling_device0/cur_state": 3,
        "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
        "sys/class/thermal/cooling_device1/cur_state": 0,
        "sys/class/thermal/cooling_device2/type": "gpu-throttle-alert",
        "sys/class/thermal/cooling_device2/cur_state": 0,
        "sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "sys/class/hwmon/hwmon0/temp1_input": 48312,
        "sys/class/hwmon/hwmon1/name": "soctherm_oc",
        "sys/class/hwmon/hwmon1/oc1_event_cnt": 0,
        "sys/class/hwmon/hwmon1/oc3_event_cnt": 2,
        "sys/class/hwmon/hwmon2/name": "ina3221",
        "sys/class/hwmon/hwmon2/in1_label": "VDD_IN",
        "sys/class/hwmon/hwmon2/in1_input": 5000,
        "sys/class/hwmon/hwmon2/curr1_input": 1600,
        "sys/class/hwmon/hwmon2/in2_label": "VDD_CPU_GPU_CV",
        "sys/class/hwmon/hwmon2/in2_input": 5000,
        "sys/class/hwmon/hwmon2/curr2_input": 700,
        "sys/class/hwmon/hwmon2/in7_label": "sum of shunt voltages",
        "sys/class/hwmon/hwmon2/in7_input": 12,
    }
    for policy in (0, 4):
        place = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        files |= {
            f"{place}/affected_cpus": " ".join(str(policy + n) for n in range(4)),
            f"{place}/scaling_driver": "tegra194",
            f"{place}/scaling_governor": "schedutil",
            f"{place}/scaling_min_freq": 1510400,
            f"{place}/scaling_max_freq": 1510400,
            f"{place}/scaling_cur_freq": 1510400,
        }
    gpu = "sys/class/devfreq/17000000.gpu"
    files |= {f"{gpu}/{name}_freq": 624750000 for name in ("min", "max", "cur")}
    return tree(root, files)
