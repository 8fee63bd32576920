// The first s tokens of one image and the rest of another.

import { decode, encode } from "./api.js";
import { byId, fillTrack, make, write } from "../shared/dom.js";
import { latest } from "./latest.js";
import { draw, pixelsOf } from "./pixels.js";
import { Picture } from "./picture.js";
import { SAMPLES, sampleFile } from "./samples.js";
import { onChange, state, update } from "./state.js";

const FILE = "file"; // the choice "a file"

/** @type {Picture | null} */
let second = null;
/** The file that the user chose. @type {Blob | null} */
let file = null;
/** @type {Map<number, ImageData>} mixes of these two images by s */
let mixes = new Map();
let visible = false;
let stale = true; // the second image, or the first, has changed since the mix was made

/** @param {(work: () => Promise<void>) => Promise<void>} attempt runs calls, and shows their errors */
export function setUpMix(attempt) {
  const slider = byId("mix-slider", HTMLInputElement);
  const choice = byId("mix-choice", HTMLSelectElement);
  const field = byId("mix-file", HTMLInputElement);
  choice.replaceChildren(
    ...SAMPLES.map((name) => make("option", { value: name }, name)),
    make("option", { value: FILE }, "a file …"),
  );
  choice.value = state.mixWith;

  const mixNow = latest(() => attempt(mix));
  const reload = () => {
    stale = true;
    if (visible) attempt(load);
  };
  slider.addEventListener("input", () => update({ mixAt: slider.valueAsNumber }));
  choice.addEventListener("change", () => {
    if (choice.value === FILE) field.click();
    else update({ mixWith: choice.value });
  });
  field.addEventListener("change", () => {
    file = field.files?.[0] ?? null;
    if (!file) return;
    update({ mixWith: FILE });
    reload();
  });
  new IntersectionObserver(([entry]) => {
    visible = entry.isIntersecting;
    if (visible && stale) attempt(load);
  }, { rootMargin: "200px" }).observe(byId("mix", HTMLElement));
  onChange((changed) => {
    if (changed.has("source") && state.source?.sample === state.mixWith) {
      update({ mixWith: SAMPLES[(SAMPLES.indexOf(state.mixWith) + 1) % SAMPLES.length] });
    }
    if (changed.has("mixWith")) choice.value = state.mixWith;
    if (changed.has("picture") || changed.has("mixWith")) reload();
    if (changed.has("mixAt")) {
      slider.value = String(state.mixAt);
      showNumbers();
      if (visible) mixNow(undefined);
    }
  });
}

/** Encode the second image, and show all three. */
async function load() {
  const { picture: first, tokenizer, fit } = state;
  if (!first || !tokenizer) return;
  stale = false;
  const name = byId("mix-choice", HTMLSelectElement).value;
  const image = name === FILE ? file : await sampleFile(name);
  if (!image) return;
  second = new Picture(await encode(image, { fit, tokenizer: tokenizer.name }), null);
  mixes = new Map();
  const slider = byId("mix-slider", HTMLInputElement);
  slider.max = String(Math.min(first.max, second.max));
  slider.value = String(state.mixAt);
  write("mix-first-name", state.source?.name ?? "this image");
  showNumbers();
  await Promise.all([first.want(first.max), second.want(second.max)]);
  const frames = { "mix-first": first.frame(first.max), "mix-second": second.frame(second.max) };
  for (const [id, frame] of Object.entries(frames)) {
    if (frame) draw(byId(id, HTMLCanvasElement), frame.pixels);
  }
  await mix();
}

async function mix() {
  const { picture: first } = state;
  const canvas = byId("mix-canvas", HTMLCanvasElement);
  const s = byId("mix-slider", HTMLInputElement).valueAsNumber;
  const known = mixes;
  if (!first || !second) return;
  if (!known.has(s)) {
    const ids = [...first.tokens.ids.slice(0, s), ...second.tokens.ids.slice(s)];
    const tokens = { fingerprint: first.tokens.fingerprint, ids, aspect: null };
    /** @type {Blob[]} */
    const files = [];
    await decode(tokens, [ids.length], ({ png }) => files.push(new Blob([png])));
    known.set(s, await pixelsOf(files[0]));
  }
  const pixels = known.get(s);
  if (pixels) draw(canvas, pixels);
  canvas.dataset.s = String(s);
}

function showNumbers() {
  const slider = byId("mix-slider", HTMLInputElement);
  const rest = Number(slider.max) - slider.valueAsNumber;
  write("mix-s", slider.value);
  write("mix-output", slider.value);
  write("mix-rest", String(rest));
  slider.setAttribute("aria-valuetext", `${slider.value} tokens of the first image, ${rest} of the second`);
  fillTrack(slider);
}
