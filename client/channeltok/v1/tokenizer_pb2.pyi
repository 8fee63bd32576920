from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIT_UNSPECIFIED: _ClassVar[Fit]
    FIT_CROP: _ClassVar[Fit]
    FIT_PAD: _ClassVar[Fit]

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_WEBP: _ClassVar[ImageFormat]
FIT_UNSPECIFIED: Fit
FIT_CROP: Fit
FIT_PAD: Fit
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
IMAGE_FORMAT_WEBP: ImageFormat

class EncodeRequest(_message.Message):
    __slots__ = ("image", "k", "tokenizer", "quality", "fit", "pixels")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    k: int
    tokenizer: str
    quality: Quality
    fit: Fit
    pixels: Pixels
    def __init__(self, image: _Optional[bytes] = ..., k: _Optional[int] = ..., tokenizer: _Optional[str] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., fit: _Optional[_Union[Fit, str]] = ..., pixels: _Optional[_Union[Pixels, _Mapping]] = ...) -> None: ...

class Pixels(_message.Message):
    __slots__ = ("width", "height", "rgb")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RGB_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    rgb: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., rgb: _Optional[bytes] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("ssim", "psnr", "max_bytes", "ssim_per_token")
    SSIM_FIELD_NUMBER: _ClassVar[int]
    PSNR_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    SSIM_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ssim: float
    psnr: float
    max_bytes: int
    ssim_per_token: float
    def __init__(self, ssim: _Optional[float] = ..., psnr: _Optional[float] = ..., max_bytes: _Optional[int] = ..., ssim_per_token: _Optional[float] = ...) -> None: ...

class QualityPoint(_message.Message):
    __slots__ = ("k", "ssim", "psnr")
    K_FIELD_NUMBER: _ClassVar[int]
    SSIM_FIELD_NUMBER: _ClassVar[int]
    PSNR_FIELD_NUMBER: _ClassVar[int]
    k: int
    ssim: float
    psnr: float
    def __init__(self, k: _Optional[int] = ..., ssim: _Optional[float] = ..., psnr: _Optional[float] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("tokenizer", "fingerprint", "k", "tokens", "stages", "engine", "curve", "view")
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    CURVE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    tokenizer: str
    fingerprint: str
    k: int
    tokens: bytes
    stages: _containers.RepeatedCompositeFieldContainer[StageTime]
    engine: str
    curve: _containers.RepeatedCompositeFieldContainer[QualityPoint]
    view: ImageView
    def __init__(self, tokenizer: _Optional[str] = ..., fingerprint: _Optional[str] = ..., k: _Optional[int] = ..., tokens: _Optional[bytes] = ..., stages: _Optional[_Iterable[_Union[StageTime, _Mapping]]] = ..., engine: _Optional[str] = ..., curve: _Optional[_Iterable[_Union[QualityPoint, _Mapping]]] = ..., view: _Optional[_Union[ImageView, _Mapping]] = ...) -> None: ...

class ImageView(_message.Message):
    __slots__ = ("width", "height", "left", "top", "right", "bottom")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("tokens", "format", "tokenizer", "aspect")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    ASPECT_FIELD_NUMBER: _ClassVar[int]
    tokens: bytes
    format: ImageFormat
    tokenizer: str
    aspect: AspectRatio
    def __init__(self, tokens: _Optional[bytes] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., tokenizer: _Optional[str] = ..., aspect: _Optional[_Union[AspectRatio, _Mapping]] = ...) -> None: ...

class AspectRatio(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("image", "format", "tokenizer", "k", "stages", "engine")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    format: ImageFormat
    tokenizer: str
    k: int
    stages: _containers.RepeatedCompositeFieldContainer[StageTime]
    engine: str
    def __init__(self, image: _Optional[bytes] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., tokenizer: _Optional[str] = ..., k: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageTime, _Mapping]]] = ..., engine: _Optional[str] = ...) -> None: ...

class DecodeProgressiveRequest(_message.Message):
    __slots__ = ("request", "k")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    request: DecodeRequest
    k: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request: _Optional[_Union[DecodeRequest, _Mapping]] = ..., k: _Optional[_Iterable[int]] = ...) -> None: ...

class DecodeProgressiveResponse(_message.Message):
    __slots__ = ("preview", "finished")
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    preview: Preview
    finished: DecodeFinished
    def __init__(self, preview: _Optional[_Union[Preview, _Mapping]] = ..., finished: _Optional[_Union[DecodeFinished, _Mapping]] = ...) -> None: ...

class DecodeFinished(_message.Message):
    __slots__ = ("tokenizer", "fingerprint", "stages", "engine")
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    tokenizer: str
    fingerprint: str
    stages: _containers.RepeatedCompositeFieldContainer[StageTime]
    engine: str
    def __init__(self, tokenizer: _Optional[str] = ..., fingerprint: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StageTime, _Mapping]]] = ..., engine: _Optional[str] = ...) -> None: ...

class StageTime(_message.Message):
    __slots__ = ("stage", "seconds")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    seconds: float
    def __init__(self, stage: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class EncodeStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    request: EncodeRequest
    def __init__(self, id: _Optional[int] = ..., request: _Optional[_Union[EncodeRequest, _Mapping]] = ...) -> None: ...

class EncodeStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    response: EncodeResponse
    error: _status_pb2.Status
    def __init__(self, id: _Optional[int] = ..., response: _Optional[_Union[EncodeResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class DecodeStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    request: DecodeRequest
    def __init__(self, id: _Optional[int] = ..., request: _Optional[_Union[DecodeRequest, _Mapping]] = ...) -> None: ...

class DecodeStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    response: DecodeResponse
    error: _status_pb2.Status
    def __init__(self, id: _Optional[int] = ..., response: _Optional[_Union[DecodeResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ListTokenizersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokenizersResponse(_message.Message):
    __slots__ = ("tokenizers",)
    TOKENIZERS_FIELD_NUMBER: _ClassVar[int]
    tokenizers: _containers.RepeatedCompositeFieldContainer[TokenizerInfo]
    def __init__(self, tokenizers: _Optional[_Iterable[_Union[TokenizerInfo, _Mapping]]] = ...) -> None: ...

class TokenizerInfo(_message.Message):
    __slots__ = ("name", "family", "fingerprint", "max_tokens", "bits_per_token", "image_size", "budgets", "vocab_size", "relative_costs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_COSTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    family: str
    fingerprint: str
    max_tokens: int
    bits_per_token: int
    image_size: int
    budgets: _containers.RepeatedScalarFieldContainer[int]
    vocab_size: int
    relative_costs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., family: _Optional[str] = ..., fingerprint: _Optional[str] = ..., max_tokens: _Optional[int] = ..., bits_per_token: _Optional[int] = ..., image_size: _Optional[int] = ..., budgets: _Optional[_Iterable[int]] = ..., vocab_size: _Optional[int] = ..., relative_costs: _Optional[_Iterable[float]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("generator", "class_name", "prefix", "k", "seed", "temperature", "top_k", "previews", "preview_format", "top_p", "guidance", "prompt", "final_temperature")
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FORMAT_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    FINAL_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    generator: str
    class_name: str
    prefix: bytes
    k: int
    seed: int
    temperature: float
    top_k: int
    previews: _containers.RepeatedScalarFieldContainer[int]
    preview_format: ImageFormat
    top_p: float
    guidance: float
    prompt: str
    final_temperature: float
    def __init__(self, generator: _Optional[str] = ..., class_name: _Optional[str] = ..., prefix: _Optional[bytes] = ..., k: _Optional[int] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., previews: _Optional[_Iterable[int]] = ..., preview_format: _Optional[_Union[ImageFormat, str]] = ..., top_p: _Optional[float] = ..., guidance: _Optional[float] = ..., prompt: _Optional[str] = ..., final_temperature: _Optional[float] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "tokens", "preview", "finished")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    started: GenerationStarted
    tokens: NewTokens
    preview: Preview
    finished: GenerationFinished
    def __init__(self, started: _Optional[_Union[GenerationStarted, _Mapping]] = ..., tokens: _Optional[_Union[NewTokens, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ..., finished: _Optional[_Union[GenerationFinished, _Mapping]] = ...) -> None: ...

class GenerationStarted(_message.Message):
    __slots__ = ("generator", "tokenizer", "fingerprint", "seed", "k")
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    generator: str
    tokenizer: str
    fingerprint: str
    seed: int
    k: int
    def __init__(self, generator: _Optional[str] = ..., tokenizer: _Optional[str] = ..., fingerprint: _Optional[str] = ..., seed: _Optional[int] = ..., k: _Optional[int] = ...) -> None: ...

class NewTokens(_message.Message):
    __slots__ = ("index", "ids")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    index: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("k", "image")
    K_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    k: int
    image: bytes
    def __init__(self, k: _Optional[int] = ..., image: _Optional[bytes] = ...) -> None: ...

class GenerationFinished(_message.Message):
    __slots__ = ("tokens", "stages", "engine")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    tokens: bytes
    stages: _containers.RepeatedCompositeFieldContainer[StageTime]
    engine: str
    def __init__(self, tokens: _Optional[bytes] = ..., stages: _Optional[_Iterable[_Union[StageTime, _Mapping]]] = ..., engine: _Optional[str] = ...) -> None: ...

class ListGeneratorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGeneratorsResponse(_message.Message):
    __slots__ = ("generators",)
    GENERATORS_FIELD_NUMBER: _ClassVar[int]
    generators: _containers.RepeatedCompositeFieldContainer[GeneratorInfo]
    def __init__(self, generators: _Optional[_Iterable[_Union[GeneratorInfo, _Mapping]]] = ...) -> None: ...

class GeneratorInfo(_message.Message):
    __slots__ = ("name", "family", "generator_fingerprint", "tokenizer", "fingerprint", "max_tokens", "classes", "max_prompt_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    family: str
    generator_fingerprint: str
    tokenizer: str
    fingerprint: str
    max_tokens: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    max_prompt_bytes: int
    def __init__(self, name: _Optional[str] = ..., family: _Optional[str] = ..., generator_fingerprint: _Optional[str] = ..., tokenizer: _Optional[str] = ..., fingerprint: _Optional[str] = ..., max_tokens: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., max_prompt_bytes: _Optional[int] = ...) -> None: ...
