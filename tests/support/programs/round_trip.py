"""Uses a service with all that a client offers: HOST:PORT IMAGE FOLDER. Prints what came back.

It imports nothing of this project but the client, and runs in environments that have only it.
"""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import channeltok
from channeltok import AsyncClient, Client, InvalidInput, Tokenizer, Tokens, datasets
from google import protobuf


def blocking(client: Client, image: bytes) -> dict[str, Any]:
    tokens = client.encode(image, k=8)
    try:
        client.encode(b"no image")
    except InvalidInput as error:
        code = error.code
    results = client.encode_stream([image, b"no image", image], k=8)
    return {
        "ids": tokens.ids.tolist(),
        "decoded": hashlib.sha256(client.decode(tokens, "png")).hexdigest(),
        "code": code,
        "streamed": [one.ids.tolist() if isinstance(one, Tokens) else one.code for one in results],
        "tokenizers": [one.name for one in client.tokenizers()],
    }


async def asynchronous(target: str, image: bytes) -> dict[str, Any]:
    async with AsyncClient(target) as client:
        tokens = await client.encode(image, k=8)
        streamed = [one async for one in client.encode_stream([image] * 3, k=8)]
        return {
            "async_ids": tokens.ids.tolist(),
            "async_streamed": [one.ids.tolist() for one in streamed if isinstance(one, Tokens)],
        }


def dataset(client: Client, image: bytes, folder: Path) -> dict[str, Any]:
    (folder / "photos").mkdir()
    for number in range(3):
        (folder / f"photos/{number}.jpg").write_bytes(image)
    source, destination = str(folder / "photos"), str(folder / "tokens")
    summary = datasets.tokenize(source, destination, [client], k=8)
    rows = datasets.TokenDataset(destination).rows()
    return {"images": summary.images, "rows": [tokens.ids.tolist() for _, tokens in rows]}


def main() -> None:
    target, file, folder = sys.argv[1:]
    image = Path(file).read_bytes()
    with Client(target) as client:
        found = blocking(client, image) | dataset(client, image, Path(folder))
    found |= asyncio.run(asynchronous(target, image))
    found |= {
        "in_process": Tokenizer.from_pretrained("demo").encode(image, k=8).ids.tolist(),
        "installed": channeltok.__file__,
        "protobuf": protobuf.__version__,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
