// @hey-api/openapi-ts: encode the bytes of a file, decode, read a problem, follow a generation.
import { readFileSync } from "node:fs";
import { decode, encode } from "./hey_api/index.ts";
import { client } from "./hey_api/client.gen.ts";

const [baseUrl, file] = process.argv.slice(2);
client.setConfig({ baseUrl, headers: { Accept: "application/json" } });
const image = readFileSync(file!).toString("base64");

const encoded = await encode({ body: { image, k: 8 }, throwOnError: true });
const decoded = await decode({ body: encoded.data, throwOnError: true });
const refused = await encode({ body: { image }, query: { k: 999 } });
if (!refused.error) throw new Error("k of 999 was taken");

console.log(JSON.stringify({
  tokens: encoded.data.tokens,
  image: decoded.data.image,
  problem: refused.error.code,
}));
