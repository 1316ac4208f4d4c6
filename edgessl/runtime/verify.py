"""Prove that a bundle is whole and that this device computes what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgessl.bundle.archive import open_bundle
from edgessl.config import Options
from edgessl.errors import GateError
from edgessl.runtime.canaries import CanaryResult, run_canaries
from edgessl.runtime.model import Model, Place, engine_of, open_engine
from edgessl.runtime.session import ENGINES

__all__ = ["VerifyReport", "verify"]


class VerifyReport(Options):
    """What `verify` found; damaged bundles raise instead.

    Attributes:
        files: Members whose hash was compared.
        engine_version: Version that the bundle was compiled and checked with.
        on: Where the canaries ran.
        ran_by: Engine that ran them; None if none did.
        engine_version_here: Version on this machine of the engine that ran them; None if none did.
        canaries: None if they did not run; ``remarks`` says why.
        remarks: What a person should know although nothing failed.
    """

    bundle: str
    kind: Literal["native", "portable"]
    on: Place
    target: str
    precision: str
    engine: str
    engine_version: str
    ran_by: str | None
    engine_version_here: str | None
    files: int
    size_bytes: int
    canaries: CanaryResult | None
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True unless the canaries ran and differ."""
        return self.canaries is None or self.canaries.passed

    def require_passed(self) -> None:
        """Raise if the canaries differ.

        Raises:
            GateError: They do.
        """
        if self.canaries is not None and not self.canaries.passed:
            raise GateError(
                f"{self.bundle}: this machine computes something else: "
                f"{self.canaries.describe()}; compile it again with {self.engine} "
                f"{self.engine_version_here}"
            )


def verify(path: str | Path, *, threads: int | None = None, on: Place = "device") -> VerifyReport:
    """Check structure and hashes, then run the canaries on the bundle's engine.

    Args:
        path: The ``.edge`` file.
        threads: Engine threads instead of the bundle's own setting.
        on: Where the canaries run: on this machine as the ``"device"``, on the engine's
            ``"emulator"``, or on this ``"host"`` with another engine that has the same integers.

    Raises:
        BundleError: The bundle is damaged or unsafe.
        UnavailableError: Its engine is not installed here.
    """
    path = Path(path)
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        remarks: list[str] = []
        ran_by: str | None = None
        here: str | None = None
        canaries: CanaryResult | None = None
        if manifest.kind == "portable" and on == "device":
            remarks.append(
                "portable: canaries run after edgessl finalize on the device"
                + (", or with --on host" if manifest.stand_ins else "")
            )
        else:
            session = open_engine(bundle, threads=threads, on=on)
            engine = engine_of(manifest, on, path.name)[0]
            ran_by, here = engine.name, ENGINES.get(engine.name).version()
            if engine.version and here != engine.version:
                remarks.append(
                    f"compiled with {engine.name} {engine.version}, this machine has {here}"
                )
            if on != "device":
                remarks.append(f"canaries ran on the {on} with {engine.name}, not on the device")
            with Model(manifest, session, name=path.name) as model:
                canaries = run_canaries(bundle, model)
            if canaries is None:
                remarks.append("the bundle has no canaries: results were not compared")
        return VerifyReport(
            bundle=path.name,
            kind=manifest.kind,
            on=on,
            target=manifest.target,
            precision=manifest.precision,
            engine=manifest.engine.name,
            engine_version=manifest.engine.version,
            ran_by=ran_by,
            engine_version_here=here,
            files=len(manifest.files),
            size_bytes=path.stat().st_size,
            canaries=canaries,
            remarks=tuple(remarks),
        )
