// A target of quality or size, from which the service chooses k.

import { encode } from "./api.js";
import { byId, write } from "../shared/dom.js";
import { onChange, state, update } from "./state.js";

/** @type {Record<string, { value: string, step: string, min: string }>} */
const DEFAULTS = {
  ssim: { value: "0.5", step: "0.01", min: "0.01" },
  psnr: { value: "20", step: "0.5", min: "1" },
  max_bytes: { value: "128", step: "2", min: "2" },
};

/** @param {(work: () => Promise<void>) => Promise<void>} attempt runs calls, and shows their errors */
export function setUpTarget(attempt) {
  const kind = byId("target-kind", HTMLSelectElement);
  const field = byId("target-value", HTMLInputElement);
  const showField = () => Object.assign(field, DEFAULTS[kind.value]);
  kind.addEventListener("change", showField);
  showField();

  byId("target", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => find(`${kind.value}=${field.value}`));
  });

  onChange((changed) => {
    if (changed.has("target") && state.target === null) write("target-result", "");
  });
}

/** @param {string} quality such as ssim=0.5 */
async function find(quality) {
  const { source, tokenizer, fit } = state;
  if (!source?.file || !tokenizer) {
    write("target-result", "A target needs the original, to compare with.");
    return;
  }
  const { ids, curve } = await encode(source.file, { fit, tokenizer: tokenizer.name, quality });
  const k = ids.length;
  update({ k, target: quality });
  const point = curve.find((one) => one.k === k);
  write("target-result", `${verdict(quality, point)}: k = ${k}.`);
}

/**
 * @param {string} quality
 * @param {{ ssim: number, psnr: number } | undefined} point
 */
function verdict(quality, point) {
  const [name, value] = quality.split("=");
  if (name === "max_bytes") return `The best within ${value} bytes`;
  const unit = name === "psnr" ? `PSNR ${value} dB` : `SSIM ${value}`;
  const reached = point && point[name === "psnr" ? "psnr" : "ssim"] >= Number(value);
  return reached ? `The fewest tried that reach ${unit}` : `No k reaches ${unit}; this is the best`;
}
