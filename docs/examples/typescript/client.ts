// @grpc/grpc-js: encode an image, decode its tokens, read an error. Steps: docs/contract.md.
//
//     node client.ts HOST:PORT PROTO_FOLDER IMAGE
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";
import type { DecodeRequest } from "./generated/channeltok/v1/DecodeRequest.ts";
import type { DecodeResponse__Output } from "./generated/channeltok/v1/DecodeResponse.ts";
import type { EncodeRequest } from "./generated/channeltok/v1/EncodeRequest.ts";
import type { EncodeResponse__Output } from "./generated/channeltok/v1/EncodeResponse.ts";
import type { ErrorInfo, ErrorInfo__Output } from "./generated/google/rpc/ErrorInfo.ts";
import type { Status, Status__Output } from "./generated/google/rpc/Status.ts";
import type { ProtoGrpcType } from "./generated/tokenizer.ts";

const [address, protos, file] = process.argv.slice(2) as [string, string, string];
const definition = loadSync(
  ["channeltok/v1/tokenizer.proto", "google/rpc/error_details.proto"],
  { includeDirs: [protos], longs: String, defaults: true },
);
const { channeltok } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
const client = new channeltok.v1.Tokenizer(address, grpc.credentials.createInsecure());

type Call<Request, Reply> = (request: Request, options: grpc.CallOptions) => Promise<Reply>;
const encode = promisify(client.encode.bind(client)) as Call<EncodeRequest, EncodeResponse__Output>;
const decode = promisify(client.decode.bind(client)) as Call<DecodeRequest, DecodeResponse__Output>;
// gRPC waits for ever unless a call has a deadline.
const options = () => ({ deadline: Date.now() + 10_000 });

// The stable code of an error of the service, such as BAD_IMAGE: the reason of its ErrorInfo.
function codeOf(error: grpc.ServiceError): string | undefined {
  const status = definition["google.rpc.Status"] as MessageTypeDefinition<Status, Status__Output>;
  const info = definition["google.rpc.ErrorInfo"] as MessageTypeDefinition<ErrorInfo, ErrorInfo__Output>;
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  if (!(bytes instanceof Buffer)) return undefined;
  const { details } = status.deserialize(bytes);
  const packed = details.find((detail) => detail.type_url.endsWith("/google.rpc.ErrorInfo"));
  return packed && info.deserialize(packed.value as Buffer).reason;
}

const image = readFileSync(file);
const { tokens, k } = await encode({ image, k: 8 }, options());
const decoded = await decode({ tokens, format: "IMAGE_FORMAT_PNG" }, options());
const refused = await encode({ image, k: 999 }, options()).catch((error) => codeOf(error));

console.log(JSON.stringify({
  k,
  tokens: tokens.toString("base64"),
  image: decoded.image.toString("base64"),
  refused,
}));
client.close();
