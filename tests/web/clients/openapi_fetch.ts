// openapi-typescript and openapi-fetch: encode, decode and read a problem, all in JSON.
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { paths } from "./openapi_typescript.d.ts";

const [baseUrl, file] = process.argv.slice(2);
const client = createClient<paths, `application/${string}json`>({
  baseUrl,
  headers: { Accept: "application/json" },
});
const image = readFileSync(file!).toString("base64");

const encoded = await client.POST("/v1/encode", { body: { image, k: 8 } });
if (!encoded.data) throw new Error(encoded.error.detail);
const decoded = await client.POST("/v1/decode", { body: encoded.data });
if (!decoded.data) throw new Error(decoded.error.detail);
const refused = await client.POST("/v1/encode", { params: { query: { k: 999 } }, body: { image } });
if (!refused.error) throw new Error("k of 999 was taken");

console.log(JSON.stringify({
  tokens: encoded.data.tokens,
  image: decoded.data.image,
  problem: refused.error.code,
}));
