"""Run the models of a repository in this process, without Triton: for tokenizing datasets.

Each tokenizer is a `channeltok.Tokenizer`, with engine and precision of the service's settings, so
an image gets exactly the same tokens, but without two gRPC hops for each image.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable
from pathlib import Path

import structlog
from channeltok import Aspect, Fit, ImageFormat, Quality, TokenBytesError, TokenizerInfo, Tokens
from channeltok.errors import CLASS_OF_CODE, ChannelTokError
from channeltok.fit import check_aspect
from channeltok.images import ImageLike
from channeltok.local.engines import Engine, EnginePool
from channeltok.local.graphs import Graphs
from channeltok.local.tokenizer import Tokenizer

from service.core.registry import ServedModels, ServedTokenizer
from service.engine.cpu import cpu_engine
from service.engine.repository import model_folders, parse_config
from service.errors import BadTokens, CannotStart, ServiceError
from service.machine import cores
from service.settings import EngineSettings
from service.triton.models import Model, is_ours, model_of

log = structlog.get_logger()


class InProcessEngine:
    """All tokenizers of a model repository, on threads that they share. Thread-safe.

    It has the methods of `channeltok.Client` that datasets need, with the same results and errors.

    Args:
        settings: repository, engine, precision and limits.
        threads: number of threads; None for one per core.

    Raises:
        ValueError: the repository holds no tokenizer.
    """

    def __init__(self, settings: EngineSettings, threads: int | None = None) -> None:
        repository = settings.model_repository
        self._served = ServedModels(_models(repository), settings.default_tokenizer)
        if not self._served.tokenizers:
            raise ValueError(f"{repository} holds no tokenizer: write one with `python -m export`")
        self._pool = EnginePool(threads or cores())
        self._tokenizers = {
            served.fingerprint: _open(served, settings, self._pool)
            for served in self._served.tokenizers
        }

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()

    def tokenizers(self) -> list[TokenizerInfo]:
        """List the tokenizers of the repository, the default one first."""
        current = filter(self._served.is_current, self._served.tokenizers)
        return [tokenizer.info() for tokenizer in current]

    def encode_stream(
        self,
        images: Iterable[ImageLike],
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
        return self._tokenizers[served.fingerprint].encode_stream(
            images, k, quality=quality, fit=fit
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
        return self._pool.map(tokens, lambda batch: self._decode(batch, format, tokenizer, aspect))

    def _decode(
        self,
        batch: list[Tokens | bytes],
        format: ImageFormat,
        name: str | None,
        aspect: Aspect | None,
    ) -> list[bytes | ChannelTokError]:
        results: dict[int, bytes | ChannelTokError] = {}
        rows_of: dict[str, dict[int, Tokens]] = defaultdict(dict)
        for row, item in enumerate(batch):
            try:
                tokens = _read_tokens(item)
                served = self._served.by_fingerprint(tokens.fingerprint, name)
                rows_of[served.fingerprint][row] = tokens
            except ServiceError as error:
                results[row] = _client_error(error)
        for fingerprint, rows in rows_of.items():
            images = self._tokenizers[fingerprint].decode_batch([*rows.values()], format, aspect)
            results.update(zip(rows, images, strict=True))
        return [results[row] for row in range(len(batch))]


def _open(served: ServedTokenizer, settings: EngineSettings, pool: EnginePool) -> Tokenizer:
    def graph(model: Model) -> Path:
        return settings.model_repository / model.name / "1" / "model.onnx"

    decoders = {budget: graph(model) for budget, model in served.decoders.items()}
    decoder = next(iter(served.decoders.values()))
    return Tokenizer(
        Graphs(served.info(), graph(served.encoder), decoders),
        encode_engine=Engine(*cpu_engine(served.encoder.parameters, settings)),
        decode_engine=Engine(*cpu_engine(decoder.parameters, settings)),
        pool=pool,
        max_pixels=settings.max_pixels,
    )


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
