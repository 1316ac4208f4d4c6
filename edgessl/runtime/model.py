"""Open a bundle and compute embeddings with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.archive import Bundle, open_bundle
from edgessl.bundle.manifest import EngineSpec, Manifest, TensorSpec
from edgessl.closing import Closing
from edgessl.errors import BundleError, DataError, UnavailableError, UsageError
from edgessl.images import read_image
from edgessl.preprocessing import ImageInput, MediaInput, RawImage, fit, model_input, sound_input
from edgessl.runtime.preflight import preflight
from edgessl.runtime.session import Array, Session, open_session
from edgessl.sounds import Clip

__all__ = ["Model", "Place", "check_finite", "engine_of", "load", "open_engine", "stack_images"]

Place = Literal["device", "emulator", "host"]
_EMBED_BATCH = 32
T = TypeVar("T")


def load(path: str | Path, *, threads: int | None = None) -> Model:
    """Open a native bundle, ready to run.

    Args:
        path: The ``.edge`` file. Every member is compared with its hash.
        threads: Engine threads instead of the bundle's own setting; 0 takes all physical cores.

    Raises:
        BundleError: The bundle is damaged or unsafe, or must be finalized first.
        UnavailableError: Its engine is not installed here.
    """
    with open_bundle(Path(path), verify=False) as bundle:
        return Model(bundle.manifest, open_engine(bundle, threads=threads), name=Path(path).name)


def open_engine(bundle: Bundle, *, threads: int | None = None, on: Place = "device") -> Session:
    """Start the bundle's engine, or a stand-in for it, on its model file.

    The members are extracted to a private temporary folder, compared with their hashes, and
    removed again as soon as the engine holds them.

    Args:
        bundle: An opened bundle.
        threads: Engine threads instead of the bundle's own setting.
        on: ``"device"`` for the engine itself; ``"emulator"`` or ``"host"`` for a stand-in that
            computes the same on another machine.

    Raises:
        BundleError: The bundle must be finalized first, or is damaged.
        UnavailableError: This machine is not what the bundle needs, or there is no such stand-in.
    """
    manifest, name = bundle.manifest, bundle.path.name
    engine, file = engine_of(manifest, on, name)
    if on == "device":
        preflight(manifest.requirements, engine, where=name)
    options = dict(engine.options)
    if threads is not None:
        options["threads"] = threads
    with tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as folder:
        bundle.extract(Path(folder))
        session = open_session(engine.name, Path(folder) / file, options)
    try:
        _check_signature(name, "input", manifest.inputs, session.inputs)
        _check_signature(name, "output", manifest.outputs, session.outputs)
    except BundleError:
        session.close()
        raise
    return session


def engine_of(manifest: Manifest, on: Place, name: str) -> tuple[EngineSpec, str]:
    """The engine for a place, and the member that it opens; see `open_engine`."""
    if on == "device":
        if manifest.kind != "native":
            raise BundleError(
                f"{name}: is portable; make it native on the device with: edgessl finalize {name}"
            )
        return manifest.engine, manifest.model
    for stand_in in manifest.stand_ins:
        if stand_in.kind == on:
            return stand_in.engine, stand_in.model
    kinds = ", ".join(sorted({stand_in.kind for stand_in in manifest.stand_ins})) or "none"
    raise UnavailableError(
        f"{name}: cannot run on '{on}': its stand-ins are {kinds}; run it on the device"
    )


class Model(Closing):
    """A bundle in its engine.

    Attributes:
        manifest: What the bundle says about itself.
    """

    def __init__(self, manifest: Manifest, session: Session, *, name: str) -> None:
        self.manifest = manifest
        self._session = session
        self._name = name

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            batch: Decoded images of one size, ``(N, H, W, C)`` uint8 or uint16, which are fitted
                and normalised as the bundle says; or the graph's own input, one sample per row:
                ``(N, C, H, W)`` float32, already normalised, or windows of sound. N is free,
                whatever the graph's batch size. Side inputs, like a state, take the constants
                of the bundle.

        Returns:
            ``(N, D)`` float32, not L2-normalised: the graph's first output, flattened per sample.

        Raises:
            DataError: A shape or dtype that the model does not take, or NaN or infinity; the
                message names the row.
            UsageError: The model has more than one input without a constant; use `run`.
        """
        spec = self._main_input()
        media = self.manifest.preprocessing
        pixels = batch.ndim == 4 and batch.dtype in (np.uint8, np.uint16)
        if isinstance(media, ImageInput) and pixels:
            batch = self._prepare(batch, media).astype(spec.dtype, copy=False)
        if self.manifest.constants:
            first = self._run_beside_constants(spec, batch)
        else:
            first = self.run({spec.name: batch})[self.manifest.outputs[0].name]
        return np.ascontiguousarray(first.reshape(len(first), -1), dtype=np.float32)

    def embed(self, paths: Iterable[str | Path]) -> NDArray[np.float32]:
        """Decode image or sound files and embed them, in order, a few at a time.

        Args:
            paths: Files as `edgessl.images.read_image` or `edgessl.sounds.Clip` takes them.

        Returns:
            ``(N, D)`` float32: a row per image, or per window of each sound.

        Raises:
            CorruptSampleError: A file that cannot be decoded, by name.
            UsageError: The bundle does not say how images or sounds become its input.
        """
        spec = self.media_input()
        if isinstance(spec, ImageInput):
            images = (fit(read_image(Path(p), name=str(p)), spec) for p in paths)
            parts = [self(stack_images(chunk)) for chunk in _chunks(images, _EMBED_BATCH)]
        else:
            parts = [self.embed_sound(path) for path in paths]
        if parts:
            return np.concatenate(parts)
        return np.zeros((0, self.manifest.embedding_dim or 0), np.float32)

    def embed_sound(self, path: str | Path) -> NDArray[np.float32]:
        """Embed one sound file, a few windows at a time: ``(windows, D)`` float32.

        Raises:
            CorruptSampleError: It cannot be decoded.
            UsageError: The bundle does not say how sounds become its input.
        """
        spec = self.media_input()
        if isinstance(spec, ImageInput):
            raise UsageError(f"{self._name}: takes images, not sounds")
        dtype = self._main_input().dtype
        with Clip(Path(path), spec, name=str(path)) as clip:
            windows = (clip.read(k) for k in range(clip.windows))
            return np.concatenate(
                [
                    self(sound_input(np.stack(chunk), spec).astype(dtype, copy=False))
                    for chunk in _chunks(windows, _EMBED_BATCH)
                ]
            )

    def media_input(self) -> MediaInput:
        """What the bundle says about its images or sounds.

        Raises:
            UsageError: It says nothing: neither the model's metadata nor ``--preprocess`` did.
        """
        if self.manifest.preprocessing is None:
            raise UsageError(
                f"{self._name}: does not say how images or sounds become its input; feed arrays "
                f"of {_describe(self.manifest.inputs)}, or compile it with --preprocess"
            )
        return self.manifest.preprocessing

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on any number of samples.

        Args:
            feeds: One array per input, of the input's dtype. If the graph has a fixed batch
                size, rows are fed in groups of it; the last group is filled up by repetition
                and the filling is cut off again.

        Returns:
            One array per output, samples first.

        Raises:
            DataError: A wrong name, dtype or shape, or NaN or infinity in a row.
        """
        for name, array in feeds.items():
            check_finite(array, where=f"input '{name}'")
        size = self.manifest.batch_size
        if size is None or not self._rows_are_samples(feeds, size):
            return self._session.run(feeds)
        rows = {len(array) for array in feeds.values()}
        if len(rows) != 1:
            raise DataError(f"inputs have {sorted(rows)} rows; give every input the same number")
        count = rows.pop()
        if count == 0:
            raise DataError("the batch is empty; give at least one sample")
        if count == size:
            return self._session.run(feeds)
        parts = [self._group(feeds, start, size) for start in range(0, count, size)]
        return {name: np.concatenate([p[name] for p in parts])[:count] for name in parts[0]}

    def close(self) -> None:
        """Give the engine's memory back."""
        self._session.close()

    def _rows_are_samples(self, feeds: Mapping[str, Array], size: int) -> bool:
        """False for graphs with a side input, like a state, whose first axis is no batch."""
        specs = (*self.manifest.inputs, *self.manifest.outputs)
        return all(spec.shape[:1] == (size,) for spec in specs) and all(
            array.ndim > 0 for array in feeds.values()
        )

    def _prepare(self, batch: RawImage, spec: ImageInput) -> Array:
        if len(batch) == 0:
            raise DataError("the batch is empty; give at least one sample")
        fitted: Array = np.stack([fit(image, spec) for image in batch])
        return model_input(fitted, spec)

    def _main_input(self) -> TensorSpec:
        """The only input that no constant fills."""
        open_ = [spec for spec in self.manifest.inputs if spec.name not in self.manifest.constants]
        if len(open_) != 1:
            raise UsageError(
                f"{self._name}: has {len(self.manifest.inputs)} inputs; "
                "call run() with one array each"
            )
        return open_[0]

    def _run_beside_constants(self, spec: TensorSpec, batch: Array) -> Array:
        """The first output for a batch, with the side inputs at their constants."""
        check_finite(batch, where=f"input '{spec.name}'")
        if len(batch) == 0:
            raise DataError("the batch is empty; give at least one sample")
        sides: dict[str, Array] = {}
        for side in self.manifest.inputs:
            if side.name == spec.name:
                continue
            sizes = [d for d in side.shape if isinstance(d, int)]
            if len(sizes) < len(side.shape):
                raise UsageError(
                    f"{self._name}: input '{side.name}' has an open size; call run() with an array"
                )
            sides[side.name] = np.full(sizes, self.manifest.constants[side.name], side.dtype)
        # What belongs to which row is known of the main input alone, so a graph that leaves its
        # batch open takes one row at a time.
        size = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else 1
        parts = []
        for start in range(0, len(batch), size):
            rows = batch[start : start + size]
            filled = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
            first = self._session.run({spec.name: filled, **sides})[self.manifest.outputs[0].name]
            parts.append(first.reshape(size, -1)[: len(rows)])
        return np.concatenate(parts)

    def _group(self, feeds: Mapping[str, Array], start: int, size: int) -> dict[str, Array]:
        rows = {name: array[start : start + size] for name, array in feeds.items()}
        missing = size - min(len(array) for array in rows.values())
        if missing:
            rows = {n: np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for n, a in rows.items()}
        return self._session.run(rows)


def check_finite(array: Array, *, where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: The first row that holds one.
    """
    if array.dtype.kind != "f" or bool(np.isfinite(array).all()):
        return
    flat = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    row = int(np.flatnonzero(~np.isfinite(flat).all(axis=1))[0])
    raise DataError(f"{where}: row {row} holds NaN or infinity; remove or repair that sample")


def stack_images(images: Sequence[RawImage]) -> RawImage:
    """One ``(N, H, W, C)`` batch; beside 16-bit images, 8-bit ones become 16-bit as bright."""
    if len({image.dtype for image in images}) < 2:
        batch: Array = np.stack(images)
        return batch
    deep = [i if i.dtype == np.uint16 else i.astype(np.uint16) * np.uint16(257) for i in images]
    return stack_images(deep)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _describe(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{s.name} {s.dtype} [{'x'.join(map(str, s.shape))}]" for s in specs)


def _check_signature(
    where: str, side: str, declared: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]
) -> None:
    """Compare names, dtypes and fixed sizes; symbolic names differ between engines."""

    def key(spec: TensorSpec) -> tuple[object, ...]:
        return (spec.name, spec.dtype, [d if isinstance(d, int) else None for d in spec.shape])

    if sorted(map(key, declared), key=repr) != sorted(map(key, found), key=repr):
        raise BundleError(
            f"{where}: the manifest declares {side}s {_describe(declared)}, the model has "
            f"{_describe(found)}; compile it again"
        )
