// One image: its tokens, what the tokenizer saw, and the images that its prefixes decode to.

import { decode } from "./api.js";
import { latest } from "./latest.js";
import { pixelsOf } from "./pixels.js";
import { psnr, ssim } from "./quality.js";
/** @import { DecodedImage, ImageTokens } from "./api.js" */

/**
 * @typedef {object} Frame what the first k tokens decode to
 * @property {number} k
 * @property {Uint8Array<ArrayBuffer>} png as the service sent it
 * @property {ImageData} pixels
 * @property {number | null} ssim null where nothing is known to compare with
 * @property {number | null} psnr
 */

const BATCH = 8; // prefixes in one call: more would delay a k that the user asks for meanwhile

/** Lengths to decode beforehand: about geometric. @param {number} max */
export function ladder(max) {
  const ks = [];
  for (let k = 1; k < max; k *= 2) ks.push(k, 1.5 * k);
  return [...new Set(ks.filter((k) => Number.isInteger(k) && k < max)), max].sort((a, b) => a - b);
}

export class Picture {
  /** @type {Map<number, Frame>} */
  #frames = new Map();
  #filling = new AbortController();
  #isFilling = false;
  /** @type {Set<() => void>} */
  #listeners = new Set();

  /**
   * @param {ImageTokens} tokens
   * @param {ImageData | null} seen what the tokenizer saw; null where only tokens are known
   */
  constructor(tokens, seen) {
    this.tokens = tokens;
    this.seen = seen;
  }

  /** The largest k. */
  get max() {
    return this.tokens.ids.length;
  }

  /** Whether `fill` is at work. */
  get isFilling() {
    return this.#isFilling;
  }

  /** Frames that are known, ascending. */
  get frames() {
    return [...this.#frames.values()].sort((a, b) => a.k - b.k);
  }

  /** @param {number} k */
  frame(k) {
    return this.#frames.get(k) ?? null;
  }

  /** Call back for each new frame; returns a function that ends it. @param {() => void} listener */
  onFrame(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Decode k now; of calls that come meanwhile, only the last counts. @param {number} k */
  async want(k) {
    if (this.#frames.has(k)) return;
    this.stop();
    await this.#ask(k);
  }

  #ask = latest(async (/** @type {number} */ k) => {
    if (!this.#frames.has(k)) await this.#decode([k]);
  });

  /**
   * Decode more lengths, in few calls, until done or until `want` needs the service.
   * @param {number[]} ks
   * @returns {Promise<boolean>} whether all are there
   */
  async fill(ks) {
    this.stop();
    const { signal } = (this.#filling = new AbortController());
    const missing = ks.filter((k) => k <= this.max && !this.#frames.has(k));
    this.#isFilling = true;
    try {
      for (let at = 0; at < missing.length; at += BATCH) {
        await this.#decode(missing.slice(at, at + BATCH), signal);
      }
    } catch (error) {
      if (signal.aborted) return false;
      throw error;
    } finally {
      if (this.#filling.signal === signal) this.#isFilling = false;
    }
    return true;
  }

  /** End what `fill` does. */
  stop() {
    this.#filling.abort();
  }

  /** @param {number[]} ks @param {AbortSignal} [signal] */
  async #decode(ks, signal) {
    /** @type {Promise<void>[]} */
    const added = [];
    await decode(this.tokens, ks, (image) => added.push(this.#add(image)), signal);
    await Promise.all(added);
  }

  /** @param {DecodedImage} image */
  async #add({ k, png }) {
    const pixels = await pixelsOf(new Blob([png], { type: "image/png" }));
    const { seen } = this;
    const comparable = seen && seen.width === pixels.width && seen.height === pixels.height;
    this.#frames.set(k, {
      k,
      png,
      pixels,
      ssim: comparable ? ssim(seen, pixels) : null,
      psnr: comparable ? psnr(seen, pixels) : null,
    });
    for (const listener of this.#listeners) listener();
  }
}
