// The service's REST API. Addresses are relative, so that a proxy may serve the page below a path.

import { readEvents } from "./events.js";
/** @import { ServerEvent } from "./events.js" */
/** @import { Tokens } from "./ctok.js" */

/**
 * @typedef {object} Tokenizer
 * @property {string} name
 * @property {string} family
 * @property {string} fingerprint
 * @property {number} max_tokens
 * @property {number} image_size
 */
/**
 * @typedef {object} Generator
 * @property {string} name
 * @property {string} tokenizer
 * @property {string} fingerprint
 * @property {number} max_tokens
 * @property {string[]} classes
 * @property {number} max_prompt_bytes 0 for a generator that takes a class
 */
/** @typedef {{ k: number, ssim: number, psnr: number }} QualityPoint */
/**
 * What the tokenizer saw of an image, in the image's pixels.
 * @typedef {object} View
 * @property {number} width
 * @property {number} height
 * @property {number} left
 * @property {number} top
 * @property {number} right
 * @property {number} bottom
 */
/**
 * Tokens, and the proportions to decode to: "3:2", or null for the whole square.
 * @typedef {Tokens & { aspect: string | null }} ImageTokens
 */
/** @typedef {ImageTokens & { view: View, curve: QualityPoint[] }} Encoded */
/** @typedef {{ fit: string, tokenizer: string, quality?: string }} EncodeOptions */
/** @typedef {{ k: number, png: Uint8Array<ArrayBuffer> }} DecodedImage */

const EVENTS = "text/event-stream";
const TOKEN_KEY = "channeltok-token";

/** An error that the service reported, as it worded it (RFC 9457). */
export class ServiceError extends Error {
  /** @param {{ status: number, title: string, detail: string, code: string }} problem */
  constructor(problem) {
    super(problem.detail);
    this.title = problem.title;
    this.status = problem.status;
    this.code = problem.code;
  }
}

/** Keep the bearer token for this tab. @param {string} token */
export function useToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

/** Whether calls carry a bearer token. */
export function hasToken() {
  return sessionStorage.getItem(TOKEN_KEY) !== null;
}

/** @returns {Promise<Tokenizer[]>} the default one first */
export async function tokenizers() {
  return (await (await call("v1/tokenizers")).json()).tokenizers;
}

/** @returns {Promise<Generator[]>} the default one first; none where the service has none */
export async function generators() {
  return (await (await call("v1/generators")).json()).generators;
}

/** The gRPC port of this service. @returns {Promise<number>} */
export async function grpcPort() {
  return (await (await call("playground/addresses.json")).json()).grpc_port;
}

/**
 * All tokens of an image, or those that a quality chose.
 * @param {Blob} image
 * @param {EncodeOptions} options
 * @returns {Promise<Encoded>}
 */
export async function encode(image, { fit, tokenizer, quality }) {
  const query = new URLSearchParams({ fit, tokenizer });
  if (quality) query.set("quality", quality);
  const response = await call(`v1/encode?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", Accept: "application/json" },
    body: image,
  });
  const { fingerprint, tokens, view, curve = [] } = await response.json();
  const sides = [view.right - view.left, view.bottom - view.top].map(Math.round);
  return { fingerprint, ids: tokens, view, curve, aspect: fit === "pad" ? sides.join(":") : null };
}

/**
 * Decode prefixes, in one call; `onImage` gets each as a PNG, when it comes.
 * @param {ImageTokens} tokens
 * @param {number[]} ks
 * @param {(image: DecodedImage) => void} onImage
 * @param {AbortSignal} [signal]
 */
export async function decode(tokens, ks, onImage, signal) {
  const query = new URLSearchParams({ k: ks.join(",") });
  if (tokens.aspect) query.set("aspect", tokens.aspect);
  const path = `v1/decode?${query}`;
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: ks.length > 1 ? EVENTS : "image/png" },
    body: JSON.stringify({ fingerprint: tokens.fingerprint, tokens: tokens.ids }),
    signal,
  };
  if (ks.length === 1) {
    onImage({ k: ks[0], png: new Uint8Array(await (await call(path, options)).arrayBuffer()) });
    return;
  }
  for await (const { name, data } of events(path, options)) {
    if (name === "preview") onImage({ k: data.k, png: fromBase64(data.image) });
  }
}

/**
 * Generate tokens; yields the events of POST /v1/generate. Throws a ServiceError, also for one that
 * comes after the first event.
 * @param {Record<string, unknown>} parameters
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<ServerEvent, void, void>}
 */
export async function* generate(parameters, signal) {
  yield* events("v1/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(parameters),
    signal,
  });
}

/**
 * @param {string} path
 * @param {RequestInit} options
 * @returns {AsyncGenerator<ServerEvent, void, void>}
 */
async function* events(path, options) {
  for await (const event of readEvents(await call(path, options))) {
    if (event.name === "error") throw new ServiceError(event.data);
    yield event;
  }
}

/** The bytes of base64. @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ServiceError({
      status: 0, title: "No answer", detail: "The service cannot be reached.", code: "UNREACHABLE",
    });
  });
  if (response.ok) return response;
  if (response.status === 401) sessionStorage.removeItem(TOKEN_KEY);
  throw new ServiceError(await problemOf(response));
}

/** @param {Response} response */
async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    // A proxy between may answer with a page of its own.
    return {
      status: response.status, title: response.statusText || `Status ${response.status}`,
      detail: "", code: "",
    };
  }
}
