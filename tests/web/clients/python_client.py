"""openapi-python-client: encode, decode and read a problem, all in JSON."""

import base64
import json
import sys
from pathlib import Path

from channel_tok_serving_client import Client
from channel_tok_serving_client.api.tokens import decode, encode
from channel_tok_serving_client.models import DecodeDocument, EncodeDocument

base_url, file = sys.argv[1:]
image = base64.b64encode(Path(file).read_bytes()).decode()
with Client(base_url, headers={"Accept": "application/json"}) as client:
    encoded = encode.sync(client=client, body=EncodeDocument(image=image, k=8))
    document = DecodeDocument.from_dict(encoded.to_dict())
    decoded = decode.sync(client=client, body=document)
    refused = encode.sync(client=client, body=EncodeDocument(image=image), k=999)

print(json.dumps({"tokens": encoded.tokens, "image": decoded.image, "problem": refused.code}))
