"""The engines of a model repository in this process, without Triton: for whole datasets, where nobody waits for one image.

The graph, the engine, its arithmetic and the image contract are those that the service has, so an image gets the same tokens here and
there, bit for bit. What is left out is what a dataset does not need: two gRPC hops for each image.
"""

import os
import runpy
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from channeltok import errors
from channeltok._messages import ImageFormat, TokenizerInfo
from channeltok.errors import ChannelTokError, InvalidInput
from channeltok.quality import Quality
from channeltok.tokens import TokenBytesError, Tokens
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

import imaging
from service.core.padding import pad_prefixes
from service.core.quality import measure_quality
from service.core.registry import ServedModels, ServedTokenizer
from service.engine.cpu import cpu_engine
from service.errors import BadTokens, FingerprintMismatch, UnknownTokenizer
from service.settings import EngineSettings
from service.triton.models import Model, model_of

BATCH = 16
# One thread at a time loads and runs for the first time: OpenVINO's binding fills tables then, and two threads that both find them empty
# wait for ever, one for the interpreter's lock and one for the tables (OpenVINO 2026.4).
_FIRST = threading.Lock()
Item = TypeVar("Item")
Result = TypeVar("Result")
_CODES: dict[type[imaging.BadImage], str] = {
    imaging.TooManyPixels: "TOO_MANY_PIXELS",
    imaging.UnsupportedFormat: "UNSUPPORTED_FORMAT",
    imaging.BadImage: "BAD_IMAGE",
}


class InProcessEngine:
    """Every tokenizer of a model repository, on `threads` threads with an engine each. Safe to share between threads.

    Raises ValueError when the repository holds none.
    """

    def __init__(self, settings: EngineSettings, threads: int | None = None) -> None:
        self._settings = settings
        self._repository = repository = settings.model_repository
        configs = [_config(path) for path in sorted(repository.glob("*/config.pbtxt"))]
        self._served = ServedModels(
            [model_of(config) for config in configs], self._settings.default_tokenizer
        )
        if not self._served.tokenizers:
            raise ValueError(f"{repository} holds no tokenizer: write one with `python -m export`")
        self.threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="engine")
        self._loaded = threading.local()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def tokenizers(self) -> list[TokenizerInfo]:
        """The default one first."""
        current = filter(self._served.is_current, self._served.tokenizers)
        return [tokenizer.info() for tokenizer in current]

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """As `channeltok.Client.encode_stream`; k from 1 to the tokenizer's max_tokens."""
        served = self._served.by_name(tokenizer)
        return self._stream(
            images,
            lambda batch: self._encode(
                served, batch, served.max_tokens if k is None else k, quality
            ),
        )

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """As `channeltok.Client.decode_stream`; tokens of several trainings may be mixed."""
        return self._stream(tokens, lambda batch: self._decode(batch, format, tokenizer))

    def _stream(
        self, source: Iterable[Item], work: Callable[[list[Item]], list[Result]]
    ) -> Generator[Result, None, None]:
        items = iter(source)
        under_way: deque[Future[list[Result]]] = deque()
        while True:
            # One batch more than the threads take: the next is there when one of them is done.
            while len(under_way) <= self.threads and (batch := list(islice(items, BATCH))):
                under_way.append(self._pool.submit(work, batch))
            if not under_way:
                return
            yield from under_way.popleft().result()

    def _encode(
        self, served: ServedTokenizer, batch: list[bytes], k: int, quality: Quality | None
    ) -> list[Tokens | ChannelTokError]:
        results: list[Tokens | ChannelTokError | None] = []
        pixels = []
        for image in batch:
            try:
                pixels.append(imaging.prepare(image, served.image_size, self._settings.max_pixels))
                results.append(None)
            except imaging.BadImage as error:
                results.append(InvalidInput(_CODES[type(error)], str(error)))
        ids = self._run(served.encoder, np.stack(pixels)).astype(np.uint16) if pixels else []
        if quality is None:
            made = iter([Tokens(one[:k], served.fingerprint) for one in ids])
        else:
            made = iter(
                [self._chosen(served, quality, *one) for one in zip(pixels, ids, strict=True)]
            )
        return [next(made) if one is None else one for one in results]

    def _chosen(
        self,
        served: ServedTokenizer,
        quality: Quality,
        pixels: NDArray[np.uint8],
        ids: NDArray[np.uint16],
    ) -> Tokens:
        budgets = quality.budgets(served.max_tokens)
        decoded = [
            self._run(decoder, pad_prefixes(ids, some, width))
            for width, decoder, some in served.decoders_for(budgets)
        ]
        curve = measure_quality(pixels, np.concatenate(decoded), budgets)
        return Tokens(ids[: quality.choose(curve).k], served.fingerprint, tuple(curve))

    def _decode(
        self, batch: list[Tokens | bytes], format: ImageFormat, tokenizer: str | None
    ) -> list[bytes | ChannelTokError]:
        given: dict[int, Tokens] = {}
        results: list[bytes | ChannelTokError] = [b""] * len(batch)
        for row, one in enumerate(batch):
            try:
                given[row] = Tokens.from_bytes(one) if isinstance(one, bytes) else one
            except TokenBytesError as error:
                results[row] = InvalidInput("BAD_TOKENS", str(error))
        for fingerprint in {one.fingerprint for one in given.values()}:
            rows = [row for row, one in given.items() if one.fingerprint == fingerprint]
            try:
                served = self._served.by_fingerprint(fingerprint, tokenizer)
            except (FingerprintMismatch, UnknownTokenizer) as error:
                made: list[bytes | ChannelTokError] = [
                    errors.FingerprintMismatch(error.code, error.detail)
                ] * len(rows)
            else:
                made = self._images([given[row] for row in rows], served, format)
            for row, result in zip(rows, made, strict=True):
                results[row] = result
        return results

    def _images(
        self, tokens: list[Tokens], served: ServedTokenizer, format: ImageFormat
    ) -> list[bytes | ChannelTokError]:
        made: list[bytes | ChannelTokError] = [b""] * len(tokens)
        by_budget: dict[int, list[int]] = defaultdict(
            list
        )  # -> rows: each goes to its own decoder, whatever shares its batch
        for row, one in enumerate(tokens):
            try:
                served.check(one)
                by_budget[served.decoder_for(one.k)[0]].append(row)
            except BadTokens as error:
                made[row] = InvalidInput(error.code, error.detail)
        for budget, rows in by_budget.items():
            padded = np.concatenate(
                [pad_prefixes(tokens[row].ids, [tokens[row].k], budget) for row in rows]
            )
            for row, pixels in zip(rows, self._run(served.decoders[budget], padded), strict=True):
                made[row] = imaging.encode_image(pixels, format.upper())
        return made

    def _run(self, model: Model, array: np.ndarray[Any, Any]) -> Any:
        """array: [n, *model.input.shape] to [n, *model.output.shape]. The engine belongs to the thread that calls."""
        loaded: dict[str, Callable[[dict[str, Any]], list[Any]]] = self._loaded.__dict__
        if model.name in loaded:
            return loaded[model.name]({model.input.name: array})[0]
        with _FIRST:
            folder = self._repository / model.name / "1"
            load = runpy.run_path(str(folder / "model.py"))[
                "load"
            ]  # what Triton's python backend would run
            engine, precision = cpu_engine(
                model.parameters["role"], self._settings, model.parameters["family"]
            )
            _, _, loaded[model.name] = load(
                folder / "model.onnx", engine, precision, threads=1, batch=model.largest_request
            )
            return loaded[model.name]({model.input.name: array})[0]


def _config(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
