"""Open a bundle and compute embeddings with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgessl.bundle.archive import Bundle, open_bundle
from edgessl.bundle.manifest import Manifest, TensorSpec
from edgessl.errors import BundleError, DataError, UsageError
from edgessl.images import read_image
from edgessl.preprocessing import ImageInput, RawImage, fit, normalize
from edgessl.runtime.session import Array, Session, open_session

__all__ = ["Model", "check_finite", "load", "open_engine", "stack_images"]

_EMBED_BATCH = 32


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


def open_engine(bundle: Bundle, *, threads: int | None = None) -> Session:
    """Start the bundle's engine on its model file.

    The members are extracted to a private temporary folder, compared with their hashes, and
    removed again as soon as the engine holds them.
    """
    manifest = bundle.manifest
    if manifest.kind != "native":
        raise BundleError(
            f"{bundle.path.name}: is portable; make it native on the device with: "
            f"edgessl finalize {bundle.path.name}"
        )
    options = dict(manifest.engine.options)
    if threads is not None:
        options["threads"] = threads
    with tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as folder:
        session = open_session(manifest.engine.name, bundle.extract(Path(folder)), options)
    try:
        _check_signature(bundle.path.name, "input", manifest.inputs, session.inputs)
        _check_signature(bundle.path.name, "output", manifest.outputs, session.outputs)
    except BundleError:
        session.close()
        raise
    return session


class Model:
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
                ``(N, C, H, W)`` float32, already normalised. N is free, whatever the graph's
                batch size.

        Returns:
            ``(N, D)`` float32, not L2-normalised: the graph's first output, flattened per sample.

        Raises:
            DataError: A shape or dtype that the model does not take, or NaN or infinity; the
                message names the row.
            UsageError: The model has more than one input; use `run`.
        """
        if len(self.manifest.inputs) != 1:
            raise UsageError(
                f"{self._name}: has {len(self.manifest.inputs)} inputs; "
                "call run() with one array each"
            )
        spec = self.manifest.inputs[0]
        image = self.manifest.preprocessing
        if image is not None and batch.ndim == 4 and batch.dtype in (np.uint8, np.uint16):
            batch = self._prepare(batch, image)
        outputs = self.run({spec.name: batch})
        first = outputs[self.manifest.outputs[0].name]
        return np.ascontiguousarray(first.reshape(len(first), -1), dtype=np.float32)

    def embed(self, paths: Iterable[str | Path]) -> NDArray[np.float32]:
        """Decode image files and embed them, in order, a few at a time.

        Args:
            paths: Image files, as `edgessl.images.read_image` takes them.

        Returns:
            ``(N, D)`` float32.

        Raises:
            CorruptSampleError: A file that cannot be decoded, by name.
            UsageError: The bundle does not say how images become its input.
        """
        spec = self.image_input()
        images = (fit(read_image(Path(p), name=str(p)), spec) for p in paths)
        parts = [self(stack_images(chunk)) for chunk in _chunks(images, _EMBED_BATCH)]
        if parts:
            return np.concatenate(parts)
        return np.zeros((0, self.manifest.embedding_dim or 0), np.float32)

    def image_input(self) -> ImageInput:
        """What the bundle says about its images.

        Raises:
            UsageError: It says nothing: the model was not exported by edgessl.
        """
        if self.manifest.preprocessing is None:
            raise UsageError(
                f"{self._name}: does not say how images become its input; feed arrays of "
                f"{_describe(self.manifest.inputs)} instead"
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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
        if not spec.folded:
            return normalize(fitted, spec)
        if fitted.dtype == np.uint8:
            return fitted
        scaled: Array = np.rint(fitted / np.float32(257)).astype(np.uint8)  # 257 = 65535 / 255
        return scaled

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


def _chunks(items: Iterable[RawImage], size: int) -> Iterator[list[RawImage]]:
    chunk: list[RawImage] = []
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
