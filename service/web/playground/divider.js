// The divider between what the tokenizer sees and what the tokens make.

import { byId, write } from "../shared/dom.js";
import { draw } from "./pixels.js";
/** @import { Frame } from "./picture.js" */

/** Let the range over the images move the divider. */
export function setUpDivider() {
  const split = byId("split", HTMLInputElement);
  const divider = byId("divider", HTMLElement);
  const move = () => divider.style.setProperty("--split", `${split.value}%`);
  split.addEventListener("input", move);
  move();
}

/**
 * @param {ImageData | null} seen
 * @param {Frame} frame
 */
export function showPair(seen, frame) {
  const divider = byId("divider", HTMLElement);
  const canvas = byId("canvas-decoded", HTMLCanvasElement);
  draw(canvas, frame.pixels);
  if (canvas.dataset.k !== String(frame.k)) canvas.dataset.k = String(frame.k);
  canvas.setAttribute("aria-label", `Image decoded from ${frame.k} tokens`);
  divider.classList.toggle("alone", seen === null);
  divider.classList.toggle("tall", frame.pixels.height > frame.pixels.width);
  if (seen) draw(byId("canvas-seen", HTMLCanvasElement), seen);
  write("chip-decoded", `${frame.k} ${frame.k === 1 ? "token" : "tokens"}`);
  byId("waiting", HTMLElement).hidden = true;
}
