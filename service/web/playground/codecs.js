// The best that WebP, JPEG and AVIF of this browser can do within some bytes, as
// tokenizer/evaluation/codecs.py does it: over quality, and over sizes to scale down to.

import { bare } from "./bare.js";
import { context2d, pixelsOf } from "./pixels.js";
import { psnr, ssim } from "./quality.js";

/**
 * @typedef {object} Saved
 * @property {number} bytes of the whole file
 * @property {ImageData} pixels scaled back to the size of the original
 * @property {number} width in the file
 * @property {number} height
 * @property {number} ssim
 * @property {number} psnr
 */
/** @typedef {{ best: Saved | null, smallest: number }} Outcome smallest: bytes of the smallest file */

export const CODECS = [
  { name: "WebP", type: "image/webp" },
  { name: "JPEG", type: "image/jpeg" },
  { name: "AVIF", type: "image/avif" },
];
const SHARES = [8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128].map((side) => side / 128);
const STEPS = 6; // of the bisection: 1/64 of the range of quality

/**
 * The file of highest SSIM; null where the browser cannot write this type.
 * @param {ImageData} original
 * @param {string} type
 * @param {number} limit bytes
 * @param {() => boolean} isWanted false ends the search
 * @returns {Promise<Outcome | null>}
 */
export async function bestWithin(original, type, limit, isWanted) {
  /** @type {Saved | null} */
  let best = null;
  let smallest = Infinity;
  for (const share of SHARES) {
    if (!isWanted()) break;
    const canvas = scaled(original, share);
    const first = await save(canvas, type, 0);
    if (first.type !== type) return null;
    smallest = Math.min(smallest, first.size);
    if (first.size > limit) break; // larger images take more
    const file = await bisect(canvas, type, limit, first);
    const pixels = await pixelsOf(file, original.width, original.height);
    const similarity = ssim(original, pixels) ?? 0;
    if (!best || similarity > best.ssim) {
      best = {
        bytes: file.size, pixels, width: canvas.width, height: canvas.height,
        ssim: similarity, psnr: psnr(original, pixels),
      };
    }
  }
  return { best, smallest };
}

/**
 * The file of highest quality within the limit.
 * @param {OffscreenCanvas} canvas
 * @param {string} type
 * @param {number} limit
 * @param {Blob} lowest the file of quality 0, which fits
 */
async function bisect(canvas, type, limit, lowest) {
  let fitting = lowest;
  let [low, high] = [0, 1];
  for (let step = 0; step < STEPS; step++) {
    const quality = (low + high) / 2;
    const file = await save(canvas, type, quality);
    if (file.size <= limit) [fitting, low] = [file, quality];
    else high = quality;
  }
  return fitting;
}

/**
 * @param {OffscreenCanvas} canvas
 * @param {string} type
 * @param {number} quality 0 to 1
 */
async function save(canvas, type, quality) {
  return bare(await canvas.convertToBlob({ type, quality }));
}

/** @param {ImageData} image @param {number} share of its sides */
function scaled(image, share) {
  const whole = new OffscreenCanvas(image.width, image.height);
  context2d(whole).putImageData(image, 0, 0);
  const small = new OffscreenCanvas(
    Math.max(1, Math.round(image.width * share)), Math.max(1, Math.round(image.height * share)),
  );
  const context = context2d(small);
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, small.width, small.height);
  return small;
}
