// The playground: opens images, and shows the state in the first part of the page.

import { ServiceError, encode, tokenizers } from "./api.js";
import { askForToken } from "./access.js";
import { readAddress, writeAddress } from "./address.js";
import { setUpCall } from "./call.js";
import { BYTES_PER_TOKEN, fromBytes, isTokens, toBytes } from "./ctok.js";
import { setUpCurve, showCurve } from "./curve.js";
import { setUpDivider, showPair } from "./divider.js";
import { afterPause, byId, copy, download, fillTrack, make, radios, write } from "../shared/dom.js";
import { isPlaying, setUpFilm, showStrip } from "./film.js";
import { loadGenerators, setUpGenerate } from "./generate.js";
import { setUpInput } from "./input.js";
import { setUpMix } from "./mix.js";
import { Picture, ladder } from "./picture.js";
import { hideProblem, setUpProblems, showProblem } from "./problem.js";
import { seenBy } from "./resize.js";
import { SAMPLES, sampleFile } from "./samples.js";
import { chooseK, onChange, state, update } from "./state.js";
import { setUpTarget } from "./target.js";
import { setUpTheme } from "../shared/theme.js";
import { setUpVersus } from "./versus.js";
/** @import { ImageTokens } from "./api.js" */
/** @import { Address } from "./address.js" */
/** @import { Source, State } from "./state.js" */

const chooseFit = radios("fit", (fit) => reopen({ fit }));
let opening = 0; // counts images, so that a slow one does not replace a later one
/** @type {Source | null} */
let latest = null; // opened last, or about to be: what another choice of fit or tokenizer is for

/**
 * Run what may need a token: when the service asks for one, ask the user, and run it again.
 * @param {() => Promise<void>} work
 */
async function attempt(work) {
  try {
    await work();
    hideProblem();
  } catch (error) {
    if (!(error instanceof ServiceError) || error.status !== 401) {
      showProblem(error);
      if (!state.picture) write("waiting", "Choose an image, or one of the samples.");
      return;
    }
    write("waiting", "Waiting for a token …");
    hideProblem();
    await askForToken(error.message);
    await attempt(async () => {
      if (!state.tokenizers.length) await loadTokenizers();
      await work();
    });
  }
}

/**
 * Encode an image with what is chosen, and show it.
 * @param {Source} source
 */
async function open(source) {
  const turn = ++opening;
  const { tokenizer, fit } = state;
  if (!source.file || !tokenizer) return;
  latest = source;
  try {
    const tokens = await encode(source.file, { fit, tokenizer: tokenizer.name });
    const seen = await seenBy(source.file, tokens.view, tokenizer.image_size);
    if (turn === opening) show(new Picture(tokens, seen), source);
  } catch (error) {
    if (turn === opening) latest = state.source;
    throw error;
  }
}

/**
 * Show tokens of which no image is known.
 * @param {ImageTokens} tokens
 * @param {string} name
 */
async function openTokens(tokens, name) {
  opening++;
  const tokenizer = state.tokenizers.find((one) => one.fingerprint === tokens.fingerprint);
  const picture = new Picture(tokens, null);
  // Refused by the service, in its words, where it serves no such tokenizer.
  await picture.fill([Math.min(state.k, picture.max)]);
  if (tokenizer) update({ tokenizer });
  show(picture, { name, sample: null, file: null });
}

/** @param {Picture} picture @param {Source} source */
function show(picture, source) {
  state.picture?.stop();
  picture.onFrame(() => {
    if (state.picture !== picture) return;
    showFrame();
    fillSoon();
  });
  latest = source;
  update({ picture, source, k: Math.min(state.k, picture.max) });
}

/** Encode the same image again, with other choices. @param {Partial<State>} changes */
function reopen(changes) {
  update({ ...changes, target: null });
  const source = latest;
  if (source?.file) attempt(() => open(source));
}

/** Open a file that the user gave: an image, or tokens. @param {File} file */
async function openFile(file) {
  await attempt(async () => {
    const bytes = new Uint8Array(await file.slice(0, 4).arrayBuffer());
    if (isTokens(bytes)) {
      const tokens = fromBytes(new Uint8Array(await file.arrayBuffer()));
      await openTokens({ ...tokens, aspect: null }, file.name);
    } else {
      await open({ name: file.name || "image.png", sample: null, file });
    }
  });
}

/** @param {string} name */
async function openSample(name) {
  await open({ name: `${name}.webp`, sample: name, file: await sampleFile(name) });
}

async function loadTokenizers() {
  const served = await tokenizers();
  const select = byId("tokenizer", HTMLSelectElement);
  select.replaceChildren(...served.map((one) => make(
    "option", { value: one.name }, `${one.name} · ${one.family} · ${one.max_tokens} tokens`,
  )));
  update({ tokenizers: served, tokenizer: served[0] ?? null });
}

/** Open what the address says; where that fails, something else, and say why. */
async function openAddress() {
  try {
    await openFrom(readAddress());
  } catch (error) {
    const refused = error instanceof ServiceError && error.status === 401;
    if (!refused && !state.picture) await openSample(SAMPLES[0]);
    throw error;
  }
}

/** @param {Address} address */
async function openFrom(address) {
  const tokenizer = state.tokenizers.find((one) => one.name === address.tokenizer);
  update({
    fit: address.fit,
    k: address.k >= 1 ? Math.round(address.k) : 64,
    tokenizer: tokenizer ?? state.tokenizers[0],
    mixWith: SAMPLES.includes(address.mixWith) ? address.mixWith : state.mixWith,
    mixAt: address.mixAt >= 0 ? Math.round(address.mixAt) : state.mixAt,
    generate: address.generate,
  });
  if (address.tokens) await openTokens(address.tokens, address.name);
  else await openSample(SAMPLES.find((name) => name === address.sample) ?? SAMPLES[0]);
  update({ target: address.target });
}

// What follows from a new k or a new frame: at once, after a short pause, after a longer one.

/** Show the frame of this k, once it is there. */
function showFrame() {
  const { picture, k } = state;
  const frame = picture?.frame(k);
  if (picture && frame) {
    showPair(picture.seen, frame);
    write("figure-ssim", frame.ssim === null ? "–" : frame.ssim.toFixed(3));
    showDecibels(frame.psnr);
  }
  showCurve();
  showStrip();
}

/** @param {number | null} psnr */
function showDecibels(psnr) {
  const figure = byId("figure-psnr", HTMLElement);
  if (psnr === null) figure.textContent = "–";
  else figure.replaceChildren(psnr.toFixed(1), make("small", {}, " dB"));
}

const fillSoon = afterPause(() => {
  const { picture } = state;
  if (!picture || picture.isFilling || isPlaying()) return;
  // Only a help: what cannot be decoded now is decoded when it is asked for.
  picture.fill(ladder(picture.max)).catch(() => {});
}, 200);

const announceSoon = afterPause(() => {
  const { picture, k } = state;
  const frame = picture?.frame(k);
  if (!frame || isPlaying()) return;
  const quality = frame.ssim === null ? "" : `, SSIM ${frame.ssim.toFixed(2)}`;
  write("announce", `${k} tokens, ${k * BYTES_PER_TOKEN} bytes${quality}`);
}, 700);

const writeAddressSoon = afterPause(writeAddress, 300);

function showChoices() {
  const { k, picture, tokenizer } = state;
  const max = picture?.max ?? tokenizer?.max_tokens ?? 256;
  const slider = byId("k", HTMLInputElement);
  const number = byId("k-number", HTMLInputElement);
  slider.max = number.max = String(max);
  slider.value = String(k);
  slider.setAttribute("aria-valuetext", `${k} tokens, ${k * BYTES_PER_TOKEN} bytes`);
  if (document.activeElement !== number) number.value = String(k);
  fillTrack(slider);
  write("k-max", `${max} · fine`);
  write("headline-k", String(k));
  write("headline-noun", k === 1 ? "token" : "tokens");
  write("headline-bytes", String(k * BYTES_PER_TOKEN));
  write("figure-tokens", String(k));
  write("figure-bytes", String(k * BYTES_PER_TOKEN));
  write("ids", picture?.tokens.ids.slice(0, k).join(" ") ?? "");
}

onChange((changed) => {
  if (changed.has("fit")) chooseFit(state.fit);
  if (changed.has("tokenizer")) byId("tokenizer", HTMLSelectElement).value = state.tokenizer?.name ?? "";
  if (changed.has("source")) showSource();
  showChoices();
  if (!state.picture) return;
  if (changed.has("k") || changed.has("picture")) {
    showFrame();
    state.picture.want(state.k).catch((error) => attempt(() => Promise.reject(error)));
    fillSoon();
    announceSoon();
  }
  writeAddressSoon();
});

function showSource() {
  const { source } = state;
  for (const button of byId("samples", HTMLElement).querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.sample === source?.sample));
  }
  write("caption", source?.file
    ? `${source.name}: what the tokenizer sees of it, beside what the tokens make.`
    : `${source?.name}: tokens alone. The original is not known here.`);
}

function setUpChoices() {
  const slider = byId("k", HTMLInputElement);
  slider.addEventListener("input", () => chooseK(slider.valueAsNumber));
  const number = byId("k-number", HTMLInputElement);
  number.addEventListener("input", () => chooseK(number.valueAsNumber));
  number.addEventListener("blur", () => { number.value = String(state.k); });
  const select = byId("tokenizer", HTMLSelectElement);
  select.addEventListener("change", () => {
    const tokenizer = state.tokenizers.find((one) => one.name === select.value);
    if (tokenizer) reopen({ tokenizer });
  });
  const stem = () => state.source?.name.replace(/\.[^.]*$/, "") ?? "image";
  byId("save-tokens", HTMLButtonElement).addEventListener("click", () => {
    if (state.picture) download(new Blob([toBytes(state.picture.tokens, state.k)]), `${stem()}.ctok`);
  });
  byId("save-image", HTMLButtonElement).addEventListener("click", () => attempt(async () => {
    const { picture, k } = state;
    if (picture && !picture.frame(k)) await picture.fill([k]); // chosen a moment ago
    const frame = picture?.frame(k);
    if (frame) download(new Blob([frame.png], { type: "image/png" }), `${stem()}.k${k}.png`);
  }));
  const link = byId("copy-link", HTMLButtonElement);
  link.addEventListener("click", async () => {
    writeAddress();
    await copy(location.href);
    link.textContent = "Copied";
    setTimeout(() => { link.textContent = "Copy link"; }, 1500);
  });
  byId("samples", HTMLElement).replaceChildren(...SAMPLES.map((name) => {
    const picture = make("img", { src: `playground/samples/${name}.webp`, alt: name });
    const button = make("button", { type: "button", onclick: () => attempt(() => openSample(name)) }, picture);
    button.dataset.sample = name;
    button.setAttribute("aria-pressed", "false");
    return button;
  }));
}

/** Links within the page move the view; the address keeps the state. */
function setUpLinks() {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const section = byId(link.getAttribute("href")?.slice(1) ?? "", HTMLElement);
      section.focus({ preventScroll: true });
      section.scrollIntoView();
    });
  }
}

setUpTheme();
setUpProblems();
setUpDivider();
setUpChoices();
setUpCurve();
setUpFilm();
setUpTarget(attempt);
setUpInput(openFile);
setUpVersus();
setUpMix(attempt);
setUpGenerate(attempt, openTokens);
setUpCall().catch(showProblem);
setUpLinks();
addEventListener("hashchange", () => {
  if (location.hash.includes("=")) attempt(openAddress);
});
await attempt(async () => {
  await loadTokenizers();
  await Promise.all([openAddress(), loadGenerators()]);
});
