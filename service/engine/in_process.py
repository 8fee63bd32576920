"""Run the models of a repository in this process, without Triton: for tokenizing datasets.

Graphs, engines, precision and image preprocessing are those of the service, so an image gets
exactly the same tokens, but without two gRPC hops for each image.
"""

import runpy
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from channeltok import (
    Aspect,
    Fit,
    ImageFormat,
    ImageView,
    Quality,
    TokenBytesError,
    TokenizerInfo,
    Tokens,
)
from channeltok.errors import CLASS_OF_CODE, ChannelTokError
from channeltok.fit import check_aspect, check_fit
from numpy.typing import NDArray

import imaging
from service.core.image_codec import read_image
from service.core.padding import pad_prefixes
from service.core.quality import measure_quality
from service.core.registry import ServedModels, ServedTokenizer
from service.engine.cpu import cpu_engine
from service.engine.repository import model_folders, parse_config
from service.errors import BadTokens, CannotStart, ServiceError
from service.machine import cores
from service.settings import EngineSettings
from service.triton.models import Model, is_ours, model_of

log = structlog.get_logger()
BATCH_SIZE = 16
# Held while a thread loads a model and runs it for the first time: OpenVINO's binding then fills
# tables, and two threads that do so at once deadlock with the GIL (OpenVINO 2026.4).
_FIRST_RUN = threading.Lock()
Item = TypeVar("Item")
Result = TypeVar("Result")


class InProcessEngine:
    """All tokenizers of a model repository, each thread with engines of its own. Thread-safe.

    It has the methods of `channeltok.Client` that datasets need, with the same results and errors.

    Args:
        settings: repository, engine, precision and limits.
        threads: number of threads; None for one per core.

    Raises:
        ValueError: the repository holds no tokenizer.
    """

    def __init__(self, settings: EngineSettings, threads: int | None = None) -> None:
        self._settings = settings
        repository = settings.model_repository
        self._served = ServedModels(_models(repository), settings.default_tokenizer)
        if not self._served.tokenizers:
            raise ValueError(f"{repository} holds no tokenizer: write one with `python -m export`")
        self.threads = threads or cores()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="engine")
        self._loaded = threading.local()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def tokenizers(self) -> list[TokenizerInfo]:
        """List the tokenizers of the repository, the default one first."""
        current = filter(self._served.is_current, self._served.tokenizers)
        return [tokenizer.info() for tokenizer in current]

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """Encode images, with results in their order; k is 1 to max_tokens.

        See `channeltok.Client.encode_stream`.
        """
        served = self._served.by_name(tokenizer)
        largest_k = served.max_tokens if k is None else k
        check_fit(fit)
        return self._stream(
            images, lambda batch: self._encode(served, batch, largest_k, quality, fit)
        )

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """Decode token sequences, with results in their order; fingerprints may be mixed.

        See `channeltok.Client.decode_stream`.
        """
        if aspect is not None:
            check_aspect(aspect)
        return self._stream(tokens, lambda batch: self._decode(batch, format, tokenizer, aspect))

    def _stream(
        self, source: Iterable[Item], work: Callable[[list[Item]], list[Result]]
    ) -> Generator[Result, None, None]:
        items = iter(source)
        running: deque[Future[list[Result]]] = deque()
        while True:
            # One batch more than threads, so that a thread never waits for its next batch.
            while len(running) <= self.threads and (batch := list(islice(items, BATCH_SIZE))):
                running.append(self._pool.submit(work, batch))
            if not running:
                return
            yield from running.popleft().result()

    def _encode(
        self, served: ServedTokenizer, batch: list[bytes], k: int, quality: Quality | None, fit: Fit
    ) -> list[Tokens | ChannelTokError]:
        results: dict[int, Tokens | ChannelTokError] = {}
        pixels: dict[int, NDArray[np.uint8]] = {}  # by row of the batch, as results
        views: dict[int, ImageView] = {}
        for row, image in enumerate(batch):
            try:
                # Here, not in a process that can be killed: the files are the user's own, and
                # nobody waits with a deadline.
                pixels[row], seen = read_image(
                    image, served.image_size, self._settings.max_pixels, fit
                )
                views[row] = ImageView(seen.width, seen.height, *seen.box)
            except ServiceError as error:
                results[row] = _client_error(error)
        if pixels:
            all_ids = self._run(served.encoder, np.stack([*pixels.values()])).astype(np.uint16)
            for row, ids in zip(pixels, all_ids, strict=True):
                if quality is None:
                    results[row] = Tokens(ids[:k], served.fingerprint, view=views[row])
                else:
                    results[row] = self._choose_k(served, quality, pixels[row], views[row], ids)
        return [results[row] for row in range(len(batch))]

    def _choose_k(
        self,
        served: ServedTokenizer,
        quality: Quality,
        pixels: NDArray[np.uint8],
        view: ImageView,
        ids: NDArray[np.uint16],
    ) -> Tokens:
        budgets = quality.budgets(served.max_tokens)
        decoded = [
            self._run(decoder, pad_prefixes(ids, ks, width))
            for width, decoder, ks in served.decoders_for(budgets)
        ]
        curve = measure_quality(pixels, np.concatenate(decoded), budgets, view.aspect)
        return Tokens(ids[: quality.choose(curve).k], served.fingerprint, tuple(curve), view)

    def _decode(
        self,
        batch: list[Tokens | bytes],
        format: ImageFormat,
        tokenizer: str | None,
        aspect: Aspect | None,
    ) -> list[bytes | ChannelTokError]:
        results: dict[int, bytes | ChannelTokError] = {}
        # Rows by decoder: the decoder of a row must not depend on the rest of its batch.
        rows_of: dict[tuple[str, int], dict[int, Tokens]] = defaultdict(dict)
        for row, item in enumerate(batch):
            try:
                tokens = _read_tokens(item)
                served = self._served.by_fingerprint(tokens.fingerprint, tokenizer)
                served.check(tokens)
                rows_of[tokens.fingerprint, served.decoder_for(tokens.k)[0]][row] = tokens
            except ServiceError as error:
                results[row] = _client_error(error)
        for (fingerprint, budget), rows in rows_of.items():
            decoder = self._served.by_fingerprint(fingerprint, tokenizer).decoders[budget]
            padded = [pad_prefixes(tokens.ids, [tokens.k], budget) for tokens in rows.values()]
            for row, pixels in zip(rows, self._run(decoder, np.concatenate(padded)), strict=True):
                shown = imaging.crop_to_aspect(pixels, *(aspect or rows[row].aspect or (1, 1)))
                results[row] = imaging.encode_image(shown, format.upper())
        return [results[row] for row in range(len(batch))]

    def _run(self, model: Model, array: np.ndarray[Any, Any]) -> Any:
        """[n, *model.input.shape] to [n, *model.output.shape], on this thread's engine."""
        loaded: dict[str, Callable[[dict[str, Any]], list[Any]]] = self._loaded.__dict__
        if model.name in loaded:
            return loaded[model.name]({model.input.name: array})[0]
        with _FIRST_RUN:
            folder = self._settings.model_repository / model.name / "1"
            # The code that Triton's python backend would run.
            load = runpy.run_path(str(folder / "model.py"))["load"]
            engine, precision = cpu_engine(
                model.parameters["role"], self._settings, model.parameters["family"]
            )
            _, _, loaded[model.name] = load(
                folder / "model.onnx", engine, precision, threads=1, batch=model.largest_request
            )
            return loaded[model.name]({model.input.name: array})[0]


def _read_tokens(item: Tokens | bytes) -> Tokens:
    try:
        return item if isinstance(item, Tokens) else Tokens.from_bytes(item)
    except TokenBytesError as error:
        raise BadTokens(str(error)) from error


def _client_error(error: ServiceError) -> ChannelTokError:
    """The exception that a client of the service would get."""
    return CLASS_OF_CODE[error.code](error.code, error.detail, error.retry_after)


def _models(repository: Path) -> list[Model]:
    """Our models in the repository; those that cannot be read are logged and left out."""
    models = []
    for folder in model_folders(repository):
        try:
            config = parse_config(folder)
        except CannotStart as error:
            log.error("cannot_load", model=folder.name, why=str(error))
            continue
        if is_ours(config):
            models.append(model_of(config))
    return models
