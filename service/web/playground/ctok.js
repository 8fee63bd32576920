// Token bytes, the content of .ctok files: docs/token-bytes.md, client/channeltok/tokens.py.

/**
 * @typedef {object} Tokens
 * @property {string} fingerprint 16 hex digits of the tokenizer's training
 * @property {number[]} ids 0 to 65535, coarse to fine
 */

const MAGIC = "CTOK";
const VERSION = 1;
export const HEADER_BYTES = 16;
export const BYTES_PER_TOKEN = 2;

/**
 * The first k tokens as bytes: 16 + 2k of them.
 * @param {Tokens} tokens
 * @param {number} k
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function toBytes(tokens, k = tokens.ids.length) {
  const bytes = new Uint8Array(HEADER_BYTES + BYTES_PER_TOKEN * k);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < 4; at++) view.setUint8(at, MAGIC.charCodeAt(at));
  view.setUint8(4, VERSION);
  view.setUint16(6, k, true);
  for (let at = 0; at < 8; at++) {
    view.setUint8(8 + at, parseInt(tokens.fingerprint.slice(2 * at, 2 * at + 2), 16));
  }
  for (let at = 0; at < k; at++) view.setUint16(HEADER_BYTES + 2 * at, tokens.ids[at], true);
  return bytes;
}

/**
 * Whether a file begins as token bytes do.
 * @param {Uint8Array} bytes
 */
export function isTokens(bytes) {
  return String.fromCharCode(...bytes.subarray(0, 4)) === MAGIC;
}

/**
 * Read token bytes. Throws with a message that says what is wrong.
 * @param {Uint8Array} bytes
 * @returns {Tokens}
 */
export function fromBytes(bytes) {
  if (!isTokens(bytes)) throw new Error(`these are no token bytes: they do not begin with ${MAGIC}`);
  if (bytes.length < HEADER_BYTES) throw new Error("these token bytes end within their header");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint8(4) !== VERSION) {
    throw new Error(`these token bytes have version ${view.getUint8(4)}; this page reads ${VERSION}`);
  }
  if (view.getUint8(5) !== 0) throw new Error("the reserved byte of these token bytes is not 0");
  const k = view.getUint16(6, true);
  const expected = HEADER_BYTES + BYTES_PER_TOKEN * k;
  if (k < 1 || bytes.length !== expected) {
    throw new Error(`${k} tokens take ${expected} bytes; this file has ${bytes.length}`);
  }
  const hex = [...bytes.subarray(8, 16)].map((byte) => byte.toString(16).padStart(2, "0"));
  const ids = Array.from({ length: k }, (_, at) => view.getUint16(HEADER_BYTES + 2 * at, true));
  return { fingerprint: hex.join(""), ids };
}

/** Text for a URL. @param {Uint8Array} bytes */
export function toText(bytes) {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** The bytes of such text; throws where it is none. @param {string} text */
export function fromText(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
}
