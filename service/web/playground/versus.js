// The tokens beside other codecs at the same bytes.

import { CODECS, bestWithin } from "./codecs.js";
import { BYTES_PER_TOKEN } from "./ctok.js";
import { afterPause, byId, make, write } from "../shared/dom.js";
import { draw } from "./pixels.js";
import { showProblem } from "./problem.js";
import { onChange, state } from "./state.js";
/** @import { Outcome } from "./codecs.js" */

let visible = false;
let shown = ""; // what the section shows, or is computing
let turn = 0;

export function setUpVersus() {
  const soon = afterPause(() => compare().catch(showProblem), 400);
  new IntersectionObserver(([entry]) => {
    visible = entry.isIntersecting;
    if (visible) soon();
  }, { rootMargin: "200px" }).observe(byId("codecs", HTMLElement));
  onChange((changed) => {
    write("codecs-bytes", `${state.k * BYTES_PER_TOKEN} bytes`);
    if (changed.has("picture")) state.picture?.onFrame(() => visible && soon());
    if (visible && (changed.has("k") || changed.has("picture"))) soon();
  });
}

/** @type {WeakMap<object, number>} */
const numbers = new WeakMap();
let counted = 0;

/** What would be compared now, as a key. */
function wanted() {
  const { picture, k } = state;
  if (!picture) return "";
  if (!numbers.has(picture)) numbers.set(picture, counted++);
  return `${numbers.get(picture)} ${k}`;
}

async function compare() {
  const { picture, k } = state;
  if (!picture || !visible || wanted() === shown) return;
  const place = byId("versus", HTMLElement);
  const { seen } = picture;
  if (!seen) {
    shown = wanted();
    place.replaceChildren();
    write("verdict", "Only the tokens of this image are known: without the original there is nothing to save.");
    return;
  }
  const frame = picture.frame(k);
  if (!frame || frame.ssim === null || frame.psnr === null) return; // not decoded yet
  shown = wanted();
  const mine = ++turn;
  const bytes = k * BYTES_PER_TOKEN;
  const isWanted = () => mine === turn;
  write("verdict", "Saving …");
  const tokens = { name: "Tokens", ssim: frame.ssim, psnr: frame.psnr };
  const outcomes = await Promise.all(CODECS.map(async ({ name, type }) => ({
    name, outcome: await bestWithin(seen, type, bytes, isWanted),
  })));
  if (!isWanted()) return;
  const rivals = outcomes.flatMap(({ name, outcome }) => (outcome?.best ? [{ name, ...outcome.best }] : []));
  const winner = [tokens, ...rivals].reduce((a, b) => (b.ssim > a.ssim ? b : a));
  place.replaceChildren(
    figure("Original", seen, [`${seen.width} × ${seen.height} pixels`, "as the tokenizer sees it"], false),
    figure("Tokens", frame.pixels,
      [`${k} tokens, ${bytes} bytes`, measures(tokens)], winner === tokens),
    ...outcomes.map(({ name, outcome }) => codecFigure(name, outcome, seen, winner.name === name)),
  );
  write("verdict", verdict(bytes, winner, rivals, tokens.ssim));
}

/**
 * @param {number} bytes
 * @param {{ name: string, ssim: number }} winner
 * @param {{ name: string, ssim: number }[]} rivals
 * @param {number} own SSIM of the tokens
 */
function verdict(bytes, winner, rivals, own) {
  if (!rivals.length) return `No codec of this browser fits an image into ${bytes} bytes.`;
  if (winner.name !== "Tokens") {
    return `At ${bytes} bytes ${winner.name} is closer to the original, by SSIM: `
      + `${winner.ssim.toFixed(3)} against ${own.toFixed(3)}.`;
  }
  const next = rivals.reduce((a, b) => (b.ssim > a.ssim ? b : a));
  return `At ${bytes} bytes the tokens are closest to the original, by SSIM: `
    + `${own.toFixed(3)} against ${next.ssim.toFixed(3)} of ${next.name}.`;
}

/** @param {{ ssim: number, psnr: number }} quality */
function measures({ ssim, psnr }) {
  return `SSIM ${ssim.toFixed(3)}, ${psnr.toFixed(1)} dB`;
}

/**
 * @param {string} name
 * @param {Outcome | null} outcome
 * @param {ImageData} seen
 * @param {boolean} wins
 */
function codecFigure(name, outcome, seen, wins) {
  if (!outcome) return empty(name, `This browser cannot write ${name}.`);
  const { best, smallest } = outcome;
  if (!best) return empty(name, `Does not fit: the smallest ${name} of this browser takes ${smallest} bytes.`);
  const lines = [`${best.bytes} bytes`, measures(best)];
  if (best.width < seen.width) lines.push(`scaled down to ${best.width} × ${best.height}`);
  return figure(name, best.pixels, lines, wins);
}

/** @param {string} name @param {string} reason */
function empty(name, reason) {
  return make("figure", {}, make("div", { className: "none" }, reason),
    make("figcaption", {}, make("strong", {}, name)));
}

/**
 * @param {string} name
 * @param {ImageData} pixels
 * @param {string[]} lines
 * @param {boolean} wins
 */
function figure(name, pixels, lines, wins) {
  const canvas = make("canvas");
  draw(canvas, pixels);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  const title = make("strong", {}, name);
  if (wins) title.append(make("span", { className: "badge" }, "closest by SSIM"));
  const caption = make("figcaption", {}, title);
  for (const line of lines) caption.append(make("div", {}, line));
  return make("figure", {}, canvas, caption);
}
