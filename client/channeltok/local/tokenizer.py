"""Tokenizer: images to tokens and back in this process."""

import operator
import os
from collections.abc import Generator, Iterable, Sequence
from itertools import groupby
from numbers import Integral
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import imaging
from channeltok._messages import ImageFormat, TokenizerInfo, check_format
from channeltok.errors import ChannelTokError, FingerprintMismatch, InvalidInput, UnknownTokenizer
from channeltok.fit import Aspect, Fit, check_aspect, check_fit
from channeltok.images import ImageLike, images_of, read_image
from channeltok.local import graphs
from channeltok.local.dataset_map import DatasetDecoder, DatasetEncoder
from channeltok.local.decoded_pixels import DecodedPixels
from channeltok.local.engines import Engine, EnginePool
from channeltok.local.graphs import Graphs
from channeltok.local.image_errors import invalid_input
from channeltok.local.image_quality import measure_quality
from channeltok.padding import pad_prefixes
from channeltok.quality import K_AND_QUALITY, Quality
from channeltok.tokens import ImageView, TokenBytesError, Tokens

if TYPE_CHECKING:
    from tokenizer.module import TokenizerModule

TokensLike: TypeAlias = Tokens | bytes | Any
"""Tokens, their bytes, or ids: integers [k] in a list, an array or a tensor, -1 for a missing id at
the end."""


class Tokenizer:
    """A tokenizer in this process, on threads with engines of their own. Thread-safe.

    The same image has the same tokens, to the bit, as in a service that computes in f32.

        tokenizer = Tokenizer.from_pretrained("demo")
        tokens = tokenizer.encode("cat.jpg", k=64)
        tokenizer.decode(tokens, k=16).as_pil().show()

    It is an engine of `channeltok.datasets` too, and can be pickled: the copy opens the same source
    again.

    Attributes:
        info: name, fingerprint, max_tokens, image_size and so on.
    """

    def __init__(
        self,
        found: Graphs,
        *,
        encode_engine: Engine | None = None,
        decode_engine: Engine | None = None,
        pool: EnginePool | None = None,
        max_pixels: int = imaging.DEFAULT_MAX_PIXELS,
    ) -> None:
        """Use `from_pretrained` instead, unless several tokenizers share the threads of a pool."""
        self.info = found.info
        self._graphs = found
        self._encode_engine = encode_engine or Engine()
        self._decode_engine = decode_engine or Engine()
        self._pool = pool or EnginePool(default_threads())
        self._max_pixels = max_pixels
        self._opened_with: dict[str, Any] | None = None

    @property
    def _of_checkpoint(self) -> bool:
        return self._encode_engine.name == "torch"

    @property
    def _encoder(self) -> Path | None:
        return self._graphs.weights if self._of_checkpoint else self._graphs.encoder

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str] = "demo",
        *,
        name: str | None = None,
        engine: str | None = None,
        precision: str = "f32",
        threads: int | None = None,
        revision: str | None = None,
        max_pixels: int = imaging.DEFAULT_MAX_PIXELS,
    ) -> "Tokenizer":
        """Open a tokenizer. Its graphs are loaded with the first call that needs them.

        Args:
            source: "demo", the tokenizer that comes with this package; a folder, such as a model
                repository or the output of `save_pretrained`; a graph, `.onnx`, which encodes or
                decodes; a checkpoint, `.safetensors`; or ORGANISATION/NAME of a hub, where there is
                no folder of that name.
            name: which tokenizer, where the folder holds several.
            engine: "onnxruntime" or "openvino"; None for the first. Checkpoints run on "torch",
                which may round a bit in 100,000 differently.
            precision: "f32"; OpenVINO also computes in "bf16", which flips a few of the
                tokens' bits.
            threads: images computed at once; None for one per core that this process may use.
            revision: branch, tag or commit of a hub's repository; None for its main branch.
            max_pixels: largest width x height of an image file, checked before it is decoded.

        Raises:
            InvalidInput: the source, engine or precision is none (BAD_REQUEST).
            UnknownTokenizer: the folder holds no tokenizer of this name, or several and no name is
                given.
            ImportError: a package is missing: the message says which.
        """
        if threads is not None and threads < 1:
            raise InvalidInput("BAD_REQUEST", f"threads is at least 1, not {threads}")
        if precision not in ("f32", "bf16"):
            raise InvalidInput("BAD_REQUEST", f"precision is f32 or bf16, not {precision!r:.40}")
        found = graphs.find(source, name, revision)
        of_checkpoint = found.encoder is None and not found.decoders
        chosen = Engine(engine or ("torch" if of_checkpoint else "onnxruntime"), precision)
        if of_checkpoint != (chosen.name == "torch"):
            raise InvalidInput(
                "BAD_REQUEST",
                "a checkpoint runs on the engine torch, graphs run on onnxruntime or openvino; "
                f"{fspath(source)} is no source for {chosen.name}: `python -m export tokenizer` "
                "makes graphs of a checkpoint",
            )
        if of_checkpoint and threads is None:
            threads = 1  # PyTorch has threads of its own
        tokenizer = cls(
            found,
            encode_engine=chosen,
            decode_engine=chosen,
            pool=EnginePool(threads or default_threads()),
            max_pixels=max_pixels,
        )
        is_path = source != "demo" and os.path.exists(source)
        tokenizer._opened_with = {
            "source": os.path.abspath(source) if is_path else fspath(source),
            "name": found.info.name,
            "engine": chosen.name,
            "precision": precision,
            "threads": threads,
            "revision": revision,
            "max_pixels": max_pixels,
        }
        return tokenizer

    def close(self) -> None:
        """Stop the threads. Later calls raise RuntimeError."""
        self._pool.close()

    def __enter__(self) -> "Tokenizer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        engine = f"{self._encode_engine.name} {self._encode_engine.precision}"
        return f"<Tokenizer {self.info.name} {self.info.fingerprint}, {engine}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._opened_with is None:
            raise TypeError("only a Tokenizer of from_pretrained can be pickled")
        return _open_again, (self._opened_with, self.info.fingerprint)

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike],
        k: int | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Any:
        """Encode an image, or a batch of them.

        Args:
            images: bytes, a path, a file object, a PIL image, an array or tensor: see
                `channeltok.images`. A list, or an array with one more dimension, is a batch.
            k: tokens to keep, 1 to max_tokens; None for all.
            quality: chooses k for each image instead.
            fit: "crop" shows the centred square of an image, "pad" all of it between two bands.

        Returns:
            Tokens; for a batch a list of them.

        Raises:
            InvalidInput: BAD_IMAGE, UNSUPPORTED_FORMAT, TOO_MANY_PIXELS, BAD_K or BAD_REQUEST. Of a
                batch, the error of its first bad image, with its place.
        """
        batch = images_of(images)
        items: Any = [images] if batch is None else batch
        results = list(self.encode_stream(items, k, quality=quality, fit=fit))
        return _unpacked(results, single=batch is None)

    def decode(
        self, tokens: TokensLike, k: int | None = None, *, aspect: Aspect | None = None
    ) -> Any:
        """Decode tokens, or a batch of them.

        Args:
            tokens: Tokens, token bytes, or ids [k]; a list of them, or ids [N, k], is a batch.
            k: decode at most the first k tokens, 1 to max_tokens; None for all.
            aspect: proportions of the image, width and height, whose bands are cut off; None for
                those that the tokens know. (1, 1) keeps the square.

        Returns:
            DecodedPixels, with `as_pil()`, `as_numpy()` and `as_tensor()`; for a batch a list.

        Raises:
            InvalidInput: BAD_TOKENS, BAD_K or BAD_REQUEST. Of a batch, the first error.
            FingerprintMismatch: another tokenizer made the tokens.
        """
        if aspect is not None:
            check_aspect(aspect)
        batch = _sequences(tokens)
        results = list(
            self._pool.map(
                [tokens] if batch is None else batch,
                lambda items: self.decode_pixels(items, k, aspect),
            )
        )
        return _unpacked(results, single=batch is None)

    def tokenizers(self) -> list[TokenizerInfo]:
        """This tokenizer alone; for `channeltok.datasets`."""
        return [self.info]

    def encode_stream(
        self,
        images: Iterable[ImageLike],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """Encode images as they come; yields tokens or errors in their order.

        See `encode`; tokenizer is this one's name, or None.
        """
        if quality is not None and k is not None:
            raise InvalidInput("BAD_REQUEST", K_AND_QUALITY)
        self._check_name(tokenizer)
        count = self._check_k(k)
        check_fit(fit)
        if self._encoder is None:
            raise InvalidInput("BAD_REQUEST", f"this graph of {self.info.name!r} only decodes")
        return self._pool.map(images, lambda batch: self.encode_batch(batch, count, quality, fit))

    def decode_stream(
        self,
        tokens: Iterable[TokensLike],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """Decode tokens to image files as they come; yields bytes or errors in their order.

        See `decode`; tokenizer is this one's name, or None.
        """
        self._check_name(tokenizer)
        check_format(format)
        if aspect is not None:
            check_aspect(aspect)
        return self._pool.map(tokens, lambda batch: self.decode_batch(batch, format, aspect))

    def encode_dataset(
        self,
        k: int | None = None,
        *,
        image: str = "image",
        tokens: str = "tokens",
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> DatasetEncoder:
        """A function for `datasets.Dataset.map(..., batched=True)`: adds a column of token ids.

            photos = photos.map(tokenizer.encode_dataset(k=64), batched=True)

        Args:
            k, quality, fit: see `encode`.
            image: column of images, in any form that `encode` takes, or `{"bytes", "path"}`.
            tokens: new column: lists of k uint16.
        """
        self._check_k(k)
        return DatasetEncoder(self, image, tokens, k, quality, check_fit(fit))

    def decode_dataset(
        self, k: int | None = None, *, tokens: str = "tokens", image: str = "image"
    ) -> DatasetDecoder:
        """A function for `datasets.Dataset.map(..., batched=True)`: adds a column of images.

        Args:
            k: see `decode`.
            tokens: column of ids.
            image: new column: PNG files as `{"bytes", "path"}`, which `datasets.Image` reads.
        """
        return DatasetDecoder(self, tokens, image, k)

    def as_module(self, weights: str | PathLike[str] | None = None) -> "TokenizerModule":
        """The same tokenizer as a torch.nn.Module, with gradients. Needs the extra `torch`.

        Args:
            weights: its checkpoint, `.safetensors`; None for the one that lies beside the graphs.

        Raises:
            InvalidInput: there is no checkpoint, or it cannot be read (BAD_REQUEST).
            FingerprintMismatch: the checkpoint is of another training.
            ImportError: PyTorch or safetensors is missing.
        """
        from tokenizer.module import load

        path = self._graphs.weights if weights is None else Path(weights)
        if path is None or not path.is_file():
            raise InvalidInput(
                "BAD_REQUEST",
                f"{path or 'a checkpoint beside the graphs'} does not exist: pass weights, the "
                ".safetensors file of this tokenizer",
            )
        try:
            module = load(path)
        except ValueError as error:
            raise InvalidInput("BAD_REQUEST", f"{path} is no checkpoint: {error}") from error
        if module.fingerprint != self.info.fingerprint:
            raise FingerprintMismatch(
                "FINGERPRINT_MISMATCH",
                f"{path} is of training {module.fingerprint}, this tokenizer of "
                f"{self.info.fingerprint}",
            )
        return module

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write a folder that `from_pretrained` reads, and that can be uploaded to a hub.

        It holds config.json, a graph to encode, one to decode for each budget, and the checkpoint
        where there is one. Raises InvalidInput (BAD_REQUEST) without graphs, and OSError.
        """
        graphs.save(self._graphs, Path(folder))

    # The parts of a call that run in the pool's threads. InProcessEngine of the service uses them.

    def encode_batch(
        self, batch: list[ImageLike], k: int, quality: Quality | None, fit: Fit
    ) -> list[Tokens | ChannelTokError]:
        """Tokens or error of each image. Only in a thread of the pool."""
        results: dict[int, Tokens | ChannelTokError] = {}
        pixels: dict[int, NDArray[np.uint8]] = {}  # by row of the batch, as results
        views: dict[int, ImageView] = {}
        for row, image in enumerate(batch):
            try:
                # Here, not in a process that can be killed: the files are the user's own, and
                # nobody waits with a deadline.
                pixels[row], views[row] = self._read_image(image, fit)
            except ChannelTokError as error:
                results[row] = error
        if pixels:
            all_ids = self._run_encoder(np.stack([*pixels.values()])).astype(np.uint16)
            for row, ids in zip(pixels, all_ids, strict=True):
                if quality is None:
                    results[row] = Tokens(ids[:k], self.info.fingerprint, view=views[row])
                else:
                    results[row] = self._choose_k(quality, pixels[row], views[row], ids)
        return [results[row] for row in range(len(batch))]

    def decode_batch(
        self, batch: list[TokensLike], format: ImageFormat, aspect: Aspect | None
    ) -> list[bytes | ChannelTokError]:
        """Image file or error of each token sequence. Only in a thread of the pool."""
        return [
            image
            if isinstance(image, ChannelTokError)
            else imaging.encode_image(image.as_numpy(), format.upper())
            for image in self.decode_pixels(batch, None, aspect)
        ]

    def decode_pixels(
        self, batch: list[TokensLike], k: int | None = None, aspect: Aspect | None = None
    ) -> list[DecodedPixels | ChannelTokError]:
        """Image or error of each token sequence. Only in a thread of the pool."""
        results: dict[int, DecodedPixels | ChannelTokError] = {}
        # Rows by decoder: the decoder of a row must not depend on the rest of its batch.
        rows_of: dict[int, dict[int, Tokens]] = {}
        for row, item in enumerate(batch):
            try:
                tokens = self._read_tokens(item, k)
                rows_of.setdefault(self._budget(tokens.k), {})[row] = tokens
            except ChannelTokError as error:
                results[row] = error
        for budget, rows in rows_of.items():
            padded = [pad_prefixes(tokens.ids, [tokens.k], budget) for tokens in rows.values()]
            decoded = self._run_decoder(budget, np.concatenate(padded))
            for (row, tokens), pixels in zip(rows.items(), decoded, strict=True):
                shown = imaging.crop_to_aspect(pixels, *(aspect or tokens.aspect or (1, 1)))
                results[row] = DecodedPixels(shown)
        return [results[row] for row in range(len(batch))]

    def _read_image(self, image: ImageLike, fit: Fit) -> tuple[NDArray[np.uint8], ImageView]:
        """The square that the tokenizer sees, uint8 [S, S, 3], and what it shows."""
        read: Any = read_image(image)
        size = self.info.image_size
        try:
            if not isinstance(read, bytes):
                if read.shape == (size, size, 3):
                    return read, ImageView(size, size, 0.0, 0.0, float(size), float(size))
                read = imaging.Pixels(read.shape[1], read.shape[0], read.tobytes())
            file = imaging.open_image(read, self._max_pixels)
            seen = file.view(fit)
            return file.pixels(size, fit), ImageView(seen.width, seen.height, *seen.box)
        except imaging.BadImage as error:
            raise invalid_input(error) from error

    def _read_tokens(self, item: TokensLike, k: int | None) -> Tokens:
        """Checked tokens, cut to k."""
        info = self.info
        try:
            if isinstance(item, (bytes, bytearray, memoryview)):
                tokens = Tokens.from_bytes(item)
            elif isinstance(item, Tokens):
                tokens = item
            else:
                tokens = Tokens(_ids(item), info.fingerprint)
        except (TokenBytesError, ValueError, TypeError) as error:
            raise InvalidInput("BAD_TOKENS", str(error)) from error
        if tokens.fingerprint != info.fingerprint:
            raise FingerprintMismatch(
                "FINGERPRINT_MISMATCH",
                f"the tokens were made by {tokens.fingerprint}, but tokenizer {info.name!r} has "
                f"fingerprint {info.fingerprint}",
            )
        if tokens.k > info.max_tokens:
            raise InvalidInput(
                "BAD_TOKENS",
                f"{tokens.k} ids; tokenizer {info.name!r} takes 1 to {info.max_tokens}",
            )
        if tokens.ids.max() >= info.vocab_size:
            raise InvalidInput(
                "BAD_TOKENS",
                f"an id is {tokens.ids.max()}; those of tokenizer {info.name!r} are 0 to "
                f"{info.vocab_size - 1}",
            )
        return tokens if k is None else tokens.prefix(min(self._check_k(k), tokens.k))

    def _check_k(self, k: int | None) -> int:
        try:
            count = self.info.max_tokens if k is None else operator.index(k)
        except TypeError as error:
            raise InvalidInput("BAD_K", f"k is a whole number, not {k!r:.40}") from error
        if not 1 <= count <= self.info.max_tokens:
            raise InvalidInput(
                "BAD_K",
                f"k is 1 to {self.info.max_tokens} for tokenizer {self.info.name!r}, not {k}",
            )
        return count

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self.info.name):
            raise UnknownTokenizer(
                "UNKNOWN_TOKENIZER",
                f"no tokenizer is called {name!r:.100}; this one is {self.info.name!r}",
            )

    def _budget(self, k: int) -> int:
        """The smallest budget that holds k tokens."""
        if self._of_checkpoint:
            return k
        budget = next((budget for budget in self._graphs.decoders if budget >= k), None)
        if budget is None:
            raise InvalidInput("BAD_K", f"no graph of {self.info.name!r} here decodes {k} tokens")
        return budget

    def _run_encoder(self, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
        assert self._encoder is not None
        return self._pool.run(self._encoder, "encode", self._encode_engine, pixels)

    def _run_decoder(self, budget: int, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
        graph = self._graphs.weights if self._of_checkpoint else self._graphs.decoders[budget]
        assert graph is not None
        return self._pool.run(graph, "decode", self._decode_engine, ids)

    def _choose_k(
        self,
        quality: Quality,
        pixels: NDArray[np.uint8],
        view: ImageView,
        ids: NDArray[np.uint16],
    ) -> Tokens:
        budgets = quality.budgets(self.info.max_tokens)
        decoded = [
            self._run_decoder(width, pad_prefixes(ids, list(ks), width))
            for width, ks in groupby(budgets, self._budget)
        ]
        curve = measure_quality(pixels, np.concatenate(decoded), budgets, view.aspect)
        return Tokens(ids[: quality.choose(curve).k], self.info.fingerprint, tuple(curve), view)


def default_threads() -> int:
    """One per core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _open_again(options: dict[str, Any], fingerprint: str) -> Tokenizer:
    tokenizer = Tokenizer.from_pretrained(**options)
    if tokenizer.info.fingerprint != fingerprint:
        raise FingerprintMismatch(
            "FINGERPRINT_MISMATCH",
            f"{options['source']} is of training {tokenizer.info.fingerprint} now, and was of "
            f"{fingerprint} when it was pickled",
        )
    return tokenizer


def _sequences(tokens: Any) -> Sequence[Any] | None:
    """The token sequences of a batch; None for a single one."""
    if isinstance(tokens, (list, tuple)):
        return None if tokens and isinstance(tokens[0], Integral) else tokens
    return list(tokens) if getattr(tokens, "ndim", 1) == 2 else None


def _ids(ids: Any) -> NDArray[Any]:
    """Ids [k] of a list, an array or a tensor, without the -1 that fill their end."""
    if hasattr(ids, "detach"):
        ids = ids.detach().cpu()
    array = np.asarray(ids)
    if array.ndim == 1 and array.dtype.kind == "i":
        k = len(array)
        while k and array[k - 1] == -1:
            k -= 1
        return array[:k]
    return array


def _unpacked(results: list[Any], single: bool) -> Any:
    """The results, or the only one. Raises the first error among them, with its place."""
    for number, result in enumerate(results):
        if isinstance(result, ChannelTokError):
            if single:
                raise result
            raise type(result)(
                result.code, f"number {number} of {len(results)}: {result.message}"
            ) from result
    return results[0] if single else results
