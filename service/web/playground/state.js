// What the user has chosen, and who wants to know of changes.

/** @import { Tokenizer } from "./api.js" */
/** @import { Picture } from "./picture.js" */

/**
 * Where the image comes from.
 * @typedef {object} Source
 * @property {string} name of the file
 * @property {string | null} sample its name, where it is one
 * @property {Blob | null} file the image; null where only tokens are known
 */
/**
 * @typedef {object} State
 * @property {Tokenizer[]} tokenizers
 * @property {Tokenizer | null} tokenizer
 * @property {string} fit crop or pad
 * @property {number} k
 * @property {string | null} target such as ssim=0.5, where it has chosen k
 * @property {Source | null} source
 * @property {Picture | null} picture
 * @property {string} mixWith sample that the image is mixed with; "file" for one of the user's
 * @property {number} mixAt tokens of the first image in the mix
 * @property {Record<string, unknown> | null} generate what the form says; null while untouched
 */

/** @type {State} */
export const state = {
  tokenizers: [],
  tokenizer: null,
  fit: "crop",
  k: 64,
  target: null,
  source: null,
  picture: null,
  mixWith: "coffee",
  mixAt: 128,
  generate: null,
};

/** @type {((changed: Set<string>) => void)[]} */
const listeners = [];

/** Call back with the names of the fields that changed. @param {(changed: Set<string>) => void} listener */
export function onChange(listener) {
  listeners.push(listener);
}

/** @param {Partial<State>} changes */
export function update(changes) {
  const changed = new Set(
    Object.entries(changes)
      .filter(([name, value]) => state[/** @type {keyof State} */ (name)] !== value)
      .map(([name]) => name),
  );
  if (!changed.size) return;
  Object.assign(state, changes);
  for (const listener of listeners) listener(changed);
}

/** Set k by hand, within what the image has: no target chose it. @param {number} k */
export function chooseK(k) {
  const max = state.picture?.max ?? state.tokenizer?.max_tokens ?? 256;
  if (Number.isFinite(k)) update({ k: Math.min(max, Math.max(1, Math.round(k))), target: null });
}
