"""Print what a bundle's build depends on besides its checkout: the machine and every package."""

from __future__ import annotations

import importlib.metadata

from edgessl.benchmarking.environment import env_hash, fingerprint

__all__: list[str] = []


def main() -> None:
    # A build may choose by measuring.
    print("machine", env_hash(fingerprint()))
    # A version does not tell what the branch of a package held; RECORD has a hash of each file.
    found = importlib.metadata.distributions()
    print("\n".join(sorted(f"{d.name} {d.version} {d.read_text('RECORD')}" for d in found)))


if __name__ == "__main__":
    main()
