"""Generate's messages: from the contract's to those of service/core/generation.py and back."""

from channeltok.v1 import tokenizer_pb2 as pb

from service.core.call_record import Stages
from service.core.generation import Event, Finished, GenerateRequest, NewTokens, Preview, Started
from service.core.registry import ServedGenerator


def wanted(request: pb.GenerateRequest, preview_format: str) -> GenerateRequest:
    """preview_format: "JPEG", "PNG" or "WEBP"."""
    return GenerateRequest(
        generator=request.generator,
        class_name=request.class_name,
        prefix=request.prefix,
        k=request.k if request.HasField("k") else None,
        seed=request.seed if request.HasField("seed") else None,
        temperature=request.temperature if request.HasField("temperature") else None,
        top_k=request.top_k if request.HasField("top_k") else None,
        previews=request.previews,
        preview_format=preview_format,
    )


def reply(event: Event) -> pb.GenerateResponse:
    match event:
        case Started(generator, seed, k):
            tokenizer = generator.tokenizer
            started = pb.GenerationStarted(
                generator=generator.name,
                tokenizer=tokenizer.name,
                fingerprint=tokenizer.fingerprint,
                seed=seed,
                k=k,
            )
            return pb.GenerateResponse(started=started)
        case NewTokens(index, ids):
            return pb.GenerateResponse(tokens=pb.NewTokens(index=index, ids=ids))
        case Preview(k, image):
            return pb.GenerateResponse(preview=pb.Preview(k=k, image=image))
        case Finished(generator, tokens, stages):
            finished = pb.GenerationFinished(
                tokens=tokens.to_bytes(), stages=stage_times(stages), engine=generator.model.engine
            )
            return pb.GenerateResponse(finished=finished)


def info(generator: ServedGenerator) -> pb.GeneratorInfo:
    return pb.GeneratorInfo(
        name=generator.name,
        family=generator.family,
        generator_fingerprint=generator.fingerprint,
        tokenizer=generator.tokenizer.name,
        fingerprint=generator.tokenizer.fingerprint,
        max_tokens=generator.max_tokens,
        classes=generator.classes,
    )


def stage_times(stages: Stages) -> list[pb.StageTime]:
    return [pb.StageTime(stage=stage, seconds=seconds) for stage, seconds in stages.items()]
