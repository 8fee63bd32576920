"""Registry of the served tokenizers and generators, read from Triton's model parameters."""

import itertools
import json
import unicodedata
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from channeltok import GeneratorInfo, TokenizerInfo
from channeltok.padding import pad_prefixes
from channeltok.tokens import Tokens
from numpy.typing import NDArray

from service.errors import (
    BadPrompt,
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
_MAX_NAMES = 10  # names in an error message
GENERATOR_INTERFACE = "2"  # inputs of a generator's model, as export.graphs.generator_graph has it


@dataclass(frozen=True)
class ServedTokenizer:
    """One trained tokenizer and the Triton models that run it.

    version: counts the trainings served under one name; calls by name use the highest.
    max_tokens: tokens of a whole image, the largest k. image_size: side of the square image that it
    encodes and decodes, in pixels. decoders: budget -> model, ascending by budget.
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
        """Number of token ids; they are 0 to vocab_size - 1."""
        return self.encoder.vocab_size

    @property
    def models(self) -> list[Model]:
        """The encoder and all decoders."""
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
            relative_costs=tuple(
                float(model.parameters.get("relative_cost", 1)) for model in self.decoders.values()
            ),
        )

    def decoder_for(self, k: int) -> tuple[int, Model]:
        """Return the smallest budget >= k and its model."""
        return next((budget, model) for budget, model in self.decoders.items() if budget >= k)

    def decoders_for(self, ks: Sequence[int]) -> Iterator[tuple[int, Model, list[int]]]:
        """Group ascending `ks` by decoder: yields each budget, its model and the ks it decodes."""
        for (budget, model), group in itertools.groupby(ks, self.decoder_for):
            yield budget, model, list(group)

    def decoder_input(self, tokens: Tokens) -> tuple[Model, NDArray[np.int32]]:
        """Return the decoder for these tokens and its input: int32 [1, budget]."""
        budget, model = self.decoder_for(tokens.k)
        return model, pad_prefixes(tokens.ids, [tokens.k], budget)

    def check(self, tokens: Tokens) -> None:
        """Raise BadTokens if there are more than max_tokens or ids outside the vocabulary."""
        if tokens.k > self.max_tokens:
            raise BadTokens(f"{tokens.k} ids; tokenizer {self.name!r} takes 1 to {self.max_tokens}")
        if tokens.ids.max() >= self.vocab_size:
            raise BadTokens(
                f"an id is {tokens.ids.max()}; those of tokenizer {self.name!r} are 0 to"
                f" {self.vocab_size - 1}"
            )


@dataclass(frozen=True)
class ServedGenerator:
    """One trained generator and the Triton model that runs it.

    version: as for tokenizers. fingerprint: the generator's own. tokenizer: decodes its tokens.
    max_tokens: most tokens of one image. classes: names, in the order of the model's class numbers.
    max_prompt_bytes: longest text in UTF-8; 0 for a generator that takes a class.
    """

    name: str
    version: int
    family: str
    fingerprint: str
    max_tokens: int
    classes: tuple[str, ...]
    max_prompt_bytes: int
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
            max_prompt_bytes=self.max_prompt_bytes,
        )

    def condition(self, class_name: str | None, prompt: str | None) -> dict[str, NDArray[Any]]:
        """The input of the model that says what the image shall show; none for None and "".

        Raises UnknownClass, BadPrompt.
        """
        if not self.max_prompt_bytes:
            if prompt:
                raise BadPrompt(f"generator {self.name!r} takes a class, not a prompt")
            return {"class": np.array([self._class_number(class_name)], np.int32)}
        if class_name:
            raise UnknownClass(
                f"generator {self.name!r} takes a prompt, such as 'a photo of cup', not a class"
            )
        # Some tokenizers do so too, and then make more tokens than there were bytes.
        text = unicodedata.normalize("NFC", prompt or "").encode()
        if len(text) > self.max_prompt_bytes:
            raise BadPrompt(
                f"the prompt has {len(text):,} bytes in UTF-8; generator {self.name!r} takes at "
                f"most {self.max_prompt_bytes:,}"
            )
        return {"prompt": np.frombuffer(text, np.uint8)}

    def _class_number(self, name: str | None) -> int:
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
        """Models without a `tokenizer` or `generator` parameter are not ours and ignored.

        Tokenizers without an encoder or a decoder for all tokens are omitted, and so are generators
        whose tokens no tokenizer here decodes. `tokenizers` and `generators` hold all of them, the
        default first, newer versions before older ones.
        """
        parts: dict[tuple[str, str], list[Model]] = defaultdict(list)
        for model in models:
            if "tokenizer" in model.parameters:
                parts[model.parameters["tokenizer"], model.parameters["fingerprint"]].append(model)
        tokenizers = [
            tokenizer
            for (name, _), group in parts.items()
            if (tokenizer := _assemble(name, group)) is not None
        ]
        self.tokenizers = sorted(
            tokenizers,
            key=lambda tokenizer: (tokenizer.name != default, tokenizer.name, -tokenizer.version),
        )
        models_of_all = [model for tokenizer in tokenizers for model in tokenizer.models]
        self._capacity = max((model.capacity for model in models_of_all), default=1)
        self._deep_capacity = max((model.deep_capacity for model in models_of_all), default=1)
        self._default = default
        self._by_name: dict[str, ServedTokenizer] = {}
        for tokenizer in self.tokenizers:
            self._by_name.setdefault(tokenizer.name, tokenizer)
        self._by_fingerprint = {tokenizer.fingerprint: tokenizer for tokenizer in self.tokenizers}
        generators = [
            generator
            for model in models
            if (generator := _generator(model, self._by_fingerprint)) is not None
        ]
        self.generators = sorted(
            generators,
            key=lambda generator: (
                generator.name != default_generator,
                generator.name,
                -generator.version,
            ),
        )
        # Those that this release cannot call.
        self.outdated = {
            model.parameters["generator"]
            for model in models
            if "generator" in model.parameters
            and model.parameters.get("interface") != GENERATOR_INTERFACE
        }
        self._default_generator = default_generator
        self._generators: dict[str, ServedGenerator] = {}
        for generator in self.generators:
            self._generators.setdefault(generator.name, generator)

    def image_permits(self, demand: int) -> int:
        """Images that may be in progress at once, where `demand` are or wait to be.

        A batch for every instance to compute, and one in line: deep batches where so many wait that
        they stay full. Images of several models share the permits, because the models share the
        processors.
        """
        usual = 2 * self._capacity
        deep = 2 * self._deep_capacity
        return deep if demand > usual + deep else usual

    @property
    def current_generators(self) -> list[ServedGenerator]:
        """The newest version of each generator, the default first."""
        return list(self._generators.values())

    def generator(
        self, name: str | None, *, prompt: bool | None = None, fingerprint: str | None = None
    ) -> ServedGenerator:
        """Return the newest version of `name`, or of the default for None or "".

        prompt: whether the call has a prompt rather than a class; None: neither. fingerprint: of
        the tokenizer that made the call's prefix; None: no prefix. Without a name, the call goes to
        the first generator that takes what it has. Raises UnknownGenerator.
        """
        name = name or self._default_name(prompt, fingerprint)
        if name in self.outdated - self._generators.keys():
            raise UnknownGenerator(
                f"generator {name!r} was exported by another release, and this one cannot call it: "
                "export it again"
            )
        if not self._generators:
            raise UnknownGenerator("no generator is served here: only encode and decode are")
        if name not in self._generators:
            served = _shortened(list(self._generators))
            raise UnknownGenerator(f"no generator is called {name[:100]!r}; served are: {served}")
        return self._generators[name]

    def _default_name(self, prompt: bool | None, fingerprint: str | None) -> str:
        if self._default_generator and self._default_generator not in self._generators:
            return self._default_generator

        def misses(generator: ServedGenerator) -> int:
            """How many of prefix and condition it cannot take."""
            other_tokens = fingerprint not in (None, generator.tokenizer.fingerprint)
            other_condition = prompt not in (None, generator.max_prompt_bytes > 0)
            return other_tokens + other_condition

        if self._generators:
            return min(self._generators.values(), key=misses).name
        return min(self.outdated, default="")

    def is_current(self, tokenizer: ServedTokenizer) -> bool:
        """Whether it is the newest version of its name."""
        return self._by_name[tokenizer.name] is tokenizer

    def by_name(self, name: str | None) -> ServedTokenizer:
        """Return the newest version of `name`, or of the default for None.

        Raises UnknownTokenizer, or EngineUnavailable if nothing is served.
        """
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
        """Return the tokenizer that made tokens of this fingerprint.

        Raises FingerprintMismatch if it is not served or is not called `name`.
        """
        named = self.by_name(name) if name or not self._by_name else None
        maker = self._by_fingerprint.get(fingerprint)
        if maker is None and named is None:
            served = ", ".join(
                f"{tokenizer.fingerprint} ({tokenizer.name})" for tokenizer in self.tokenizers
            )
            raise FingerprintMismatch(
                f"the tokens were made by {fingerprint}, which is not served; served are: {served}"
            )
        if maker is None or (named is not None and named.name != maker.name):
            assert named is not None
            raise FingerprintMismatch(
                f"the tokens were made by {fingerprint}, but tokenizer {named.name!r} has"
                f" fingerprint {named.fingerprint}"
            )
        return maker


class Registry:
    """The models served now.

    current: replaced as a whole by `publish`. refresh: polls Triton at once, for a caller who names
    a tokenizer that is not in `current`. on_publish: called after each change.
    """

    def __init__(
        self, refresh: Callable[[], Awaitable[None]], current: ServedModels | None = None
    ) -> None:
        self.refresh = refresh
        self.current = current or ServedModels([])
        self.on_publish: Callable[[], None] = lambda: None

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
        for name in sorted(served.outdated - before.outdated):
            log.warning("outdated_generator", generator=name, hint="export it again")
        self.on_publish()


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
    parameters = encoders[0].parameters
    max_tokens = int(parameters["channels"])
    if max(decoders, default=0) < max_tokens:
        return None
    return ServedTokenizer(
        name=name,
        version=int(parameters.get("version", 1)),
        family=parameters["family"],
        fingerprint=parameters["fingerprint"],
        max_tokens=max_tokens,
        bits_per_token=int(parameters["bits_per_token"]),
        image_size=int(parameters["picture_size"]),
        encoder=encoders[0],
        decoders=dict(sorted(decoders.items())),
    )


def _generator(model: Model, tokenizers: dict[str, ServedTokenizer]) -> ServedGenerator | None:
    parameters = model.parameters
    if "generator" not in parameters or parameters.get("interface") != GENERATOR_INTERFACE:
        return None
    tokenizer, max_tokens = tokenizers.get(parameters["fingerprint"]), int(parameters["channels"])
    if (
        tokenizer is None
        or max_tokens > tokenizer.max_tokens
        or model.vocab_size > tokenizer.vocab_size
    ):
        return None
    return ServedGenerator(
        name=parameters["generator"],
        version=int(parameters.get("version", 1)),
        family=parameters["family"],
        fingerprint=parameters["generator_fingerprint"],
        max_tokens=max_tokens,
        classes=tuple(json.loads(parameters.get("classes", "[]"))),
        max_prompt_bytes=int(parameters.get("prompt_bytes", 0)),
        tokenizer=tokenizer,
        model=model,
    )


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
