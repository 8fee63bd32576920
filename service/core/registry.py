"""Registry of the served tokenizers and generators, read from the parameters in Triton's model configs."""

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import structlog
from channeltok import GeneratorInfo, TokenizerInfo
from channeltok.tokens import Tokens
from numpy.typing import NDArray

from service.core.padding import pad_prefixes
from service.errors import (
    BadTokens,
    EngineUnavailable,
    FingerprintMismatch,
    UnknownClass,
    UnknownGenerator,
    UnknownTokenizer,
)
from service.observability import metrics
from service.triton.health import ENGINE_RETRY_SECONDS
from service.triton.models import Model

log = structlog.get_logger()
_SHOWN = 10  # names in a sentence


@dataclass(frozen=True)
class ServedTokenizer:
    """One training of a tokenizer, and the Triton models that run it.

    version: counts the trainings that were served under one name; calls by that name go to the highest.
    max_tokens: tokens of a whole image, the largest k. image_size: side of the square it sees and makes, pixels.
    decoders: budget -> model, ascending by budget.
    """

    name: str
    version: int
    family: str
    fingerprint: str
    max_tokens: int
    bits_per_token: int
    image_size: int
    encoder: Model
    decoders: dict[int, Model]

    @property
    def vocab_size(self) -> int:
        """How many ids a token may have: 0 to vocab_size - 1."""
        return self.encoder.vocab_size

    @property
    def models(self) -> list[Model]:
        """All of them."""
        return [self.encoder, *self.decoders.values()]

    def info(self) -> TokenizerInfo:
        """What clients see of it."""
        return TokenizerInfo(
            name=self.name,
            family=self.family,
            fingerprint=self.fingerprint,
            max_tokens=self.max_tokens,
            bits_per_token=self.bits_per_token,
            vocab_size=self.vocab_size,
            image_size=self.image_size,
            budgets=tuple(self.decoders),
        )

    def decoder_for(self, k: int) -> tuple[int, Model]:
        """The smallest budget >= k, and its model."""
        return next((budget, model) for budget, model in self.decoders.items() if budget >= k)

    def decoders_for(self, ks: Sequence[int]) -> Iterator[tuple[int, Model, list[int]]]:
        """The decoders that `decode` would use for each k, ascending: the budget of each, its model, and those of `ks` that go to it."""
        for (budget, model), some in groupby(ks, self.decoder_for):
            yield budget, model, list(some)

    def decoder_input(self, tokens: Tokens) -> tuple[Model, NDArray[np.int32]]:
        """The decoder for these tokens, and its input: int32 [1, budget]."""
        budget, model = self.decoder_for(tokens.k)
        return model, pad_prefixes(tokens.ids, [tokens.k], budget)

    def check(self, tokens: Tokens) -> None:
        """Raises BadTokens for what it cannot have made: more tokens than its max_tokens, or ids that it does not have."""
        if tokens.k > self.max_tokens:
            raise BadTokens(f"{tokens.k} ids; tokenizer {self.name!r} takes 1 to {self.max_tokens}")
        if tokens.ids.max() >= self.vocab_size:
            raise BadTokens(
                f"an id is {tokens.ids.max()}; those of tokenizer {self.name!r} are 0 to {self.vocab_size - 1}"
            )


@dataclass(frozen=True)
class ServedGenerator:
    """One training of a generator, and the Triton model that runs it.

    version: as a tokenizer's. fingerprint: its own. tokenizer: the training whose tokens it makes. max_tokens: the most tokens it makes.
    classes: what can be asked for, in the order of the model's numbers.
    """

    name: str
    version: int
    family: str
    fingerprint: str
    max_tokens: int
    classes: tuple[str, ...]
    tokenizer: ServedTokenizer
    model: Model

    def info(self) -> GeneratorInfo:
        """What clients see of it."""
        return GeneratorInfo(
            name=self.name,
            family=self.family,
            generator_fingerprint=self.fingerprint,
            tokenizer=self.tokenizer.name,
            fingerprint=self.tokenizer.fingerprint,
            max_tokens=self.max_tokens,
            classes=self.classes,
        )

    def class_number(self, name: str | None) -> int:
        """As the model counts them, -1 for None or an empty name. Raises UnknownClass."""
        if not name:
            return -1
        if name not in self.classes:
            known = (
                f"it knows {_shortened(self.classes)}" if self.classes else "it knows no classes"
            )
            raise UnknownClass(f"generator {self.name!r} has no class {name[:100]!r}; {known}")
        return self.classes.index(name)


class ServedModels:
    """Immutable snapshot of the tokenizers and generators that Triton serves.

    Several versions of one name can be served while a new one replaces an old one: encode uses the
    newest, decode the version that made the tokens.
    """

    def __init__(
        self, models: list[Model], default: str | None = None, default_generator: str | None = None
    ) -> None:
        """Models without a `tokenizer` or `generator` parameter are not ours and are left alone; a tokenizer that lacks a part is left
        out, and so is a generator whose tokens no tokenizer here decodes.

        tokenizers, generators: all of them, the default one first, newer versions before older.
        """
        parts: dict[tuple[str, str], list[Model]] = defaultdict(list)
        for model in models:
            if "tokenizer" in model.parameters:
                parts[model.parameters["tokenizer"], model.parameters["fingerprint"]].append(model)
        found = [
            tokenizer
            for (name, _), group in parts.items()
            if (tokenizer := _assemble(name, group)) is not None
        ]
        self.tokenizers = sorted(
            found,
            key=lambda tokenizer: (tokenizer.name != default, tokenizer.name, -tokenizer.version),
        )
        self._default = default
        self._by_name: dict[str, ServedTokenizer] = {}
        for tokenizer in self.tokenizers:
            self._by_name.setdefault(tokenizer.name, tokenizer)
        self._by_fingerprint = {tokenizer.fingerprint: tokenizer for tokenizer in self.tokenizers}
        generators = [
            made
            for model in models
            if (made := _generator(model, self._by_fingerprint)) is not None
        ]
        self.generators = sorted(
            generators, key=lambda one: (one.name != default_generator, one.name, -one.version)
        )
        self._default_generator = default_generator
        self._generators: dict[str, ServedGenerator] = {}
        for generator in self.generators:
            self._generators.setdefault(generator.name, generator)

    @property
    def current_generators(self) -> list[ServedGenerator]:
        """Those that calls by their names go to, the default one first."""
        return list(self._generators.values())

    def generator(self, name: str | None) -> ServedGenerator:
        """The newest called `name`; the default one for None or an empty name. Raises UnknownGenerator."""
        if not self._generators:
            raise UnknownGenerator("no generator is served here: only encode and decode are")
        name = name or self._default_generator or next(iter(self._generators))
        if name not in self._generators:
            raise UnknownGenerator(
                f"no generator is called {name[:100]!r}; served are: {_shortened(list(self._generators))}"
            )
        return self._generators[name]

    def is_current(self, tokenizer: ServedTokenizer) -> bool:
        """Whether calls by its name go to it, and not to a newer version."""
        return self._by_name[tokenizer.name] is tokenizer

    def by_name(self, name: str | None) -> ServedTokenizer:
        """The one called `name`; the default one for None. Raises UnknownTokenizer, or EngineUnavailable when nothing is served."""
        if not self._by_name:
            raise EngineUnavailable("no tokenizer is loaded: try again", ENGINE_RETRY_SECONDS)
        name = name or self._default
        if not name:
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            raise UnknownTokenizer(
                f"no tokenizer is called {name[:100]!r}; served are: {', '.join(self._by_name)}"
            )
        return self._by_name[name]

    def by_fingerprint(self, fingerprint: str, name: str | None) -> ServedTokenizer:
        """The one that made tokens of this fingerprint. Raises FingerprintMismatch when it is not served, or is not `name`."""
        named = self.by_name(name) if name or not self._by_name else None
        found = self._by_fingerprint.get(fingerprint)
        if found is None and named is None:
            served = ", ".join(
                f"{tokenizer.fingerprint} ({tokenizer.name})" for tokenizer in self.tokenizers
            )
            raise FingerprintMismatch(
                f"the tokens were made by {fingerprint}, which is not served; served are: {served}"
            )
        if found is None or (named is not None and named.name != found.name):
            assert named is not None
            raise FingerprintMismatch(
                f"the tokens were made by {fingerprint}, but tokenizer {named.name!r} has fingerprint {named.fingerprint}"
            )
        return found


class Registry:
    """The models served now.

    current: replaced as a whole by `publish`. refresh: polls Triton at once, for a caller who names a
    tokenizer that is not in `current`.
    """

    def __init__(
        self, refresh: Callable[[], Awaitable[None]], current: ServedModels | None = None
    ) -> None:
        self.refresh = refresh
        self.current = current or ServedModels([])

    def publish(self, served: ServedModels) -> None:
        """Replace `current`, log what is new in it and update the metrics."""
        before, self.current = self.current, served
        for tokenizer in before.tokenizers:
            metrics.TOKENIZER_INFO.labels(tokenizer.name, tokenizer.fingerprint).set(0)
        for tokenizer in served.tokenizers:
            metrics.TOKENIZER_INFO.labels(tokenizer.name, tokenizer.fingerprint).set(
                served.is_current(tokenizer)
            )
        _log_new("tokenizer", before.tokenizers, served.tokenizers)
        _log_new("generator", before.generators, served.generators)


def _log_new(
    kind: str,
    before: Sequence[ServedTokenizer | ServedGenerator],
    now: Sequence[ServedTokenizer | ServedGenerator],
) -> None:
    known = {served.fingerprint for served in before}
    for served in now:
        if served.fingerprint not in known:
            names = {kind: served.name}
            log.info("serving", **names, version=served.version, fingerprint=served.fingerprint)


def _assemble(name: str, models: list[Model]) -> ServedTokenizer | None:
    encoders = [model for model in models if model.parameters["role"] == "encode"]
    decoders = {
        int(model.parameters["budget"]): model
        for model in models
        if model.parameters["role"] == "decode"
    }
    if not encoders:
        return None
    facts = encoders[0].parameters
    max_tokens = int(facts["channels"])
    if max(decoders, default=0) < max_tokens:
        return None
    return ServedTokenizer(
        name=name,
        version=int(facts.get("version", 1)),
        family=facts["family"],
        fingerprint=facts["fingerprint"],
        max_tokens=max_tokens,
        bits_per_token=int(facts["bits_per_token"]),
        image_size=int(facts["picture_size"]),
        encoder=encoders[0],
        decoders=dict(sorted(decoders.items())),
    )


def _generator(model: Model, tokenizers: dict[str, ServedTokenizer]) -> ServedGenerator | None:
    facts = model.parameters
    if "generator" not in facts or facts.get("role") != "generate":
        return None
    tokenizer, max_tokens = tokenizers.get(facts["fingerprint"]), int(facts["channels"])
    if (
        tokenizer is None
        or max_tokens > tokenizer.max_tokens
        or model.vocab_size > tokenizer.vocab_size
    ):
        return None
    return ServedGenerator(
        name=facts["generator"],
        version=int(facts.get("version", 1)),
        family=facts["family"],
        fingerprint=facts["generator_fingerprint"],
        max_tokens=max_tokens,
        classes=tuple(json.loads(facts.get("classes", "[]"))),
        tokenizer=tokenizer,
        model=model,
    )


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
