// New images, token by token; only where a generator is served.

import { ServiceError, fromBase64, generate, generators } from "./api.js";
import { byId, make, write } from "../shared/dom.js";
import { draw, pixelsOf } from "./pixels.js";
import { ladder } from "./picture.js";
import { onChange, state, update } from "./state.js";
/** @import { Generator, ImageTokens } from "./api.js" */

const MAX_PREVIEWS = 8; // of a call

/** @type {Generator[]} */
let served = [];
/** @type {AbortController | null} */
let running = null;
/** @type {ImageTokens | null} */
let made = null;

/**
 * @param {(work: () => Promise<void>) => Promise<void>} attempt runs calls, and shows their errors
 * @param {(tokens: ImageTokens, name: string) => Promise<void>} openTokens
 */
export function setUpGenerate(attempt, openTokens) {
  byId("generate-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(run);
  });
  byId("generate-stop", HTMLButtonElement).addEventListener("click", () => running?.abort());
  byId("generator", HTMLSelectElement).addEventListener("change", showGenerator);
  byId("generate-open", HTMLButtonElement).addEventListener("click", () => {
    const tokens = made;
    if (tokens) attempt(() => openTokens(tokens, "generated"));
    byId("compare", HTMLElement).scrollIntoView();
  });
  byId("generate-form", HTMLFormElement).addEventListener("input", () => {
    update({ generate: generateParameters() });
  });
  onChange((changed) => {
    if (changed.has("generate")) fillForm();
    if (changed.has("k") || changed.has("picture")) showGoOn();
  });
}

/** Ask what is served; the section stays hidden where nothing is. */
export async function loadGenerators() {
  served = await generators().catch((error) => {
    if (error instanceof ServiceError && error.status === 404) return [];
    throw error;
  });
  const there = served.length > 0;
  byId("generate", HTMLElement).hidden = !there;
  byId("generate-link", HTMLElement).hidden = !there;
  byId("call-kind-label", HTMLElement).hidden = !there;
  if (!there) return;
  byId("generator", HTMLSelectElement).replaceChildren(
    ...served.map((one) => make("option", { value: one.name }, one.name)),
  );
  showGenerator();
  fillForm();
}

/** Show what the address says, where the form does not say it yet. */
function fillForm() {
  const { generate } = state;
  if (!generate || !served.length || JSON.stringify(generate) === JSON.stringify(generateParameters())) return;
  if (generate.generator) byId("generator", HTMLSelectElement).value = String(generate.generator);
  showGenerator();
  byId("class", HTMLSelectElement).value = String(generate.class ?? "");
  const fields = {
    prompt: "prompt", "generate-k": "k", seed: "seed", temperature: "temperature",
    "final-temperature": "final_temperature",
    "top-k": "top_k", "top-p": "top_p", guidance: "guidance",
  };
  for (const [id, name] of Object.entries(fields)) {
    byId(id, HTMLInputElement).value = String(generate[name] ?? "");
  }
}

/** @returns {Generator | undefined} */
function chosen() {
  const name = byId("generator", HTMLSelectElement).value;
  return served.find((one) => one.name === name);
}

/** The text on which a class was trained. @param {string} name */
function promptOf(name) {
  return `a photo of ${name.replaceAll("_", " ").toLowerCase()}`;
}

function showGenerator() {
  const generator = chosen();
  if (!generator) return;
  const classes = byId("class", HTMLSelectElement);
  classes.replaceChildren(
    make("option", { value: "" }, "any"),
    ...generator.classes.map((name) => make("option", { value: name }, name)),
  );
  classes.disabled = !generator.classes.length;
  const takesPrompt = generator.max_prompt_bytes > 0;
  const prompt = byId("prompt", HTMLInputElement);
  for (const field of [classes, prompt]) {
    field.hidden = takesPrompt !== (field === prompt);
    for (const label of field.labels ?? []) label.hidden = field.hidden;
  }
  if (takesPrompt) classes.value = "";
  else prompt.value = "";
  byId("prompts", HTMLDataListElement).replaceChildren(
    ...generator.classes.map((name) => make("option", { value: promptOf(name) })),
  );
  const k = byId("generate-k", HTMLInputElement);
  k.max = k.value = String(generator.max_tokens);
  showGoOn();
}

/** Going on takes tokens of the generator's own tokenizer, and fewer than it shall make in all. */
function showGoOn() {
  const box = byId("go-on", HTMLInputElement);
  box.disabled = state.picture?.tokens.fingerprint !== chosen()?.fingerprint;
  if (box.disabled) box.checked = false;
  write("go-on-k", String(state.k));
}

/**
 * The body of the call, as the form says. Empty fields take the service's defaults.
 * @returns {Record<string, unknown>}
 */
export function generateParameters() {
  const number = (/** @type {string} */ id) => {
    const { value } = byId(id, HTMLInputElement);
    return value === "" ? undefined : Number(value);
  };
  const generator = chosen();
  return withoutUndefined({
    generator: generator && generator !== served[0] ? generator.name : undefined,
    class: byId("class", HTMLSelectElement).value || undefined,
    prompt: byId("prompt", HTMLInputElement).value || undefined,
    k: number("generate-k"),
    seed: number("seed"),
    temperature: number("temperature"),
    final_temperature: number("final-temperature"),
    top_k: number("top-k"),
    top_p: number("top-p"),
    guidance: number("guidance"),
  });
}

/** How many tokens of the image above to go on from; 0: none. */
export function goOnFrom() {
  return byId("go-on", HTMLInputElement).checked ? state.k : 0;
}

/** @param {Record<string, unknown>} fields */
function withoutUndefined(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

async function run() {
  const { picture } = state;
  const parameters = generateParameters();
  const given = goOnFrom();
  const total = Number(parameters.k ?? chosen()?.max_tokens);
  if (picture && given) {
    const { fingerprint, ids } = picture.tokens;
    parameters.prefix = { fingerprint, tokens: ids.slice(0, given) };
  }
  parameters.previews = ladder(total).filter((k) => k > given).slice(-MAX_PREVIEWS);
  const progress = byId("generate-progress", HTMLProgressElement);
  progress.max = total;
  progress.value = given;
  progress.hidden = false;
  byId("previews", HTMLElement).replaceChildren();
  byId("generate-open", HTMLElement).hidden = true;
  running?.abort();
  const { signal } = (running = new AbortController());
  setRunning(true);
  let seed = "";
  try {
    for await (const { name, data } of generate(parameters, signal)) {
      if (name === "start") {
        seed = `seed ${data.seed}`;
        write("generate-status", `Generating with ${seed} …`);
      } else if (name === "token") {
        progress.value = data.index + data.ids.length;
      } else if (name === "preview") {
        await showPreview(data.k, new Blob([fromBase64(data.image)]));
      } else if (name === "done") {
        made = { fingerprint: data.fingerprint, ids: data.tokens, aspect: null };
        progress.value = total;
        write("generate-status", `${data.k} tokens, ${seed}.`);
        byId("generate-open", HTMLElement).hidden = false;
      }
    }
  } catch (error) {
    write("generate-status", signal.aborted ? "Stopped." : "Not finished.");
    throw error;
  } finally {
    if (running?.signal === signal) setRunning(false);
  }
}

/** @param {boolean} on */
function setRunning(on) {
  byId("generate-start", HTMLButtonElement).disabled = on;
  byId("generate-stop", HTMLButtonElement).disabled = !on;
}

/** @param {number} k @param {Blob} file */
async function showPreview(k, file) {
  const pixels = await pixelsOf(file);
  const canvas = byId("generate-canvas", HTMLCanvasElement);
  draw(canvas, pixels);
  canvas.hidden = false;
  canvas.dataset.k = String(k);
  const small = make("canvas");
  draw(small, pixels);
  small.setAttribute("role", "img");
  small.setAttribute("aria-label", `After ${k} tokens`);
  byId("previews", HTMLElement).append(make("figure", {}, small, make("figcaption", {}, `k = ${k}`)));
}
