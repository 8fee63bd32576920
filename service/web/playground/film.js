// k = 1 to C as a film, and some frames of it.

import { byId, make, write } from "../shared/dom.js";
import { draw } from "./pixels.js";
import { showProblem } from "./problem.js";
import { chooseK, onChange, state } from "./state.js";

const FRAME_MS = 1000 / 24;
const FRAMES = 9;

let playing = false;
let shown = 0; // the k that the film has chosen last

/** Lengths in the strip: doubling, up to all. @param {number} max */
function stripOf(max) {
  const ks = [];
  for (let k = 1; k < max; k *= 2) ks.push(k);
  return [...ks.slice(0, FRAMES - 1), max];
}

export function setUpFilm() {
  const button = byId("play", HTMLButtonElement);
  button.addEventListener("click", () => {
    if (playing) playing = false;
    else play().catch(showProblem);
  });
  onChange((changed) => {
    if (changed.has("k") && state.k !== shown) playing = false; // the user chose another
    if (changed.has("picture")) {
      playing = false;
      buildStrip();
      showButton();
    }
  });
}

function showButton() {
  const max = state.picture?.max ?? 256;
  write("play", playing ? "Stop" : `Play k = 1 to ${max}`);
}

function buildStrip() {
  const buttons = stripOf(state.picture?.max ?? 256).map((k) => {
    const canvas = make("canvas", { width: 128, height: 128 });
    canvas.setAttribute("aria-hidden", "true");
    const button = make("button", { type: "button", onclick: () => chooseK(k) }, canvas, `k = ${k}`);
    button.dataset.k = String(k);
    return button;
  });
  byId("strip", HTMLElement).replaceChildren(...buttons);
  showStrip();
}

/** Draw the frames that have come, and mark the chosen one. */
export function showStrip() {
  for (const button of byId("strip", HTMLElement).querySelectorAll("button")) {
    const k = Number(button.dataset.k);
    const frame = state.picture?.frame(k);
    const canvas = button.querySelector("canvas");
    if (frame && canvas && canvas.dataset.k !== String(k)) {
      draw(canvas, frame.pixels);
      canvas.dataset.k = String(k);
    }
    button.setAttribute("aria-pressed", String(k === state.k));
  }
}

/** Show each k in turn, as fast as frames come, at most 24 in a second. */
async function play() {
  const { picture } = state;
  if (!picture) return;
  playing = true;
  showButton();
  const all = Array.from({ length: picture.max }, (_, at) => at + 1);
  const filling = picture.fill(all);
  filling.catch(() => { playing = false; });
  for (const k of all) {
    while (playing && !picture.frame(k)) await pause(FRAME_MS);
    if (!playing || state.picture !== picture) break;
    shown = k;
    chooseK(k);
    write("film-status", `k = ${k} of ${picture.max}`);
    await pause(FRAME_MS);
  }
  if (!playing) picture.stop();
  playing = false;
  write("film-status", "");
  showButton();
  await filling;
}

/** @param {number} milliseconds */
function pause(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}

/** Whether the film runs: then nothing else is decoded beforehand. */
export function isPlaying() {
  return playing;
}
