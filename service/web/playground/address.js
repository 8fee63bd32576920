// The state in the address, behind #: browsers do not send that part, so no log has it.

import { fromBytes, fromText, toBytes, toText } from "./ctok.js";
import { state } from "./state.js";
/** @import { ImageTokens } from "./api.js" */

/**
 * @typedef {object} Address
 * @property {string | null} sample
 * @property {ImageTokens | null} tokens
 * @property {string} name of the file that the tokens came from
 * @property {number} k NaN where there is none
 * @property {string} fit
 * @property {string | null} tokenizer
 * @property {string | null} target
 * @property {string} mixWith
 * @property {number} mixAt
 * @property {Record<string, unknown> | null} generate
 */

const MIX = { with: "coffee", at: 128 }; // of an address that names none

/** What the address says. Throws where it is damaged. @returns {Address} */
export function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const text = parameters.get("tokens");
  const aspect = parameters.get("aspect");
  return {
    sample: parameters.get("image"),
    tokens: text === null ? null : { ...fromBytes(fromText(text)), aspect },
    name: parameters.get("name") ?? "image",
    k: Number(parameters.get("k") ?? NaN),
    fit: parameters.get("fit") === "pad" ? "pad" : "crop",
    tokenizer: parameters.get("tokenizer"),
    target: parameters.get("target"),
    mixWith: parameters.get("mix") ?? MIX.with,
    mixAt: Number(parameters.get("s") ?? MIX.at),
    generate: JSON.parse(parameters.get("generate") ?? "null"),
  };
}

/** The address of this state. An own image is in it as its tokens, some hundred letters. */
export function addressOf() {
  const { source, picture, tokenizer } = state;
  const parameters = new URLSearchParams();
  if (source?.sample) parameters.set("image", source.sample);
  parameters.set("k", String(state.k));
  if (state.target) parameters.set("target", state.target);
  if (state.fit !== "crop") parameters.set("fit", state.fit);
  if (tokenizer && tokenizer !== state.tokenizers[0]) parameters.set("tokenizer", tokenizer.name);
  if (state.mixWith !== MIX.with && state.mixWith !== "file") parameters.set("mix", state.mixWith);
  if (state.mixAt !== MIX.at) parameters.set("s", String(state.mixAt));
  if (state.generate) parameters.set("generate", JSON.stringify(state.generate));
  if (source && !source.sample && picture) {
    parameters.set("name", source.name);
    if (picture.tokens.aspect) parameters.set("aspect", picture.tokens.aspect);
    parameters.set("tokens", toText(toBytes(picture.tokens)));
  }
  return `#${parameters}`;
}

/** Write the state into the address, as no new entry of the history. */
export function writeAddress() {
  if (state.picture) history.replaceState(null, "", addressOf());
}
