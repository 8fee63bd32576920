// The curve of quality over k, which also chooses k.

import { byId, radios } from "../shared/dom.js";
import { chooseK, state } from "./state.js";

const MARGIN = { top: 8, right: 10, bottom: 24, left: 34 };
const UNITS = { ssim: { step: 0.1, digits: 1, name: "SSIM" }, psnr: { step: 4, digits: 0, name: "PSNR in dB" } };

/** @type {"ssim" | "psnr"} */
let measure = "ssim";

export function setUpCurve() {
  const svg = byId("curve", SVGSVGElement);
  radios("measure", (value) => {
    measure = value === "psnr" ? "psnr" : "ssim";
    showCurve();
  });
  /** @param {PointerEvent} event */
  const choose = (event) => {
    const box = svg.getBoundingClientRect();
    const inner = box.width - MARGIN.left - MARGIN.right;
    const share = (event.clientX - box.left - MARGIN.left) / inner;
    chooseK(maxK() ** Math.min(1, Math.max(0, share)));
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    choose(event);
  });
  svg.addEventListener("pointermove", (event) => {
    if (svg.hasPointerCapture(event.pointerId)) choose(event);
  });
  new ResizeObserver(showCurve).observe(svg);
}

function maxK() {
  return Math.max(2, state.picture?.max ?? 256);
}

/** Draw what is known so far. */
export function showCurve() {
  const svg = byId("curve", SVGSVGElement);
  const { width, height } = svg.getBoundingClientRect();
  const description = byId("curve-text", SVGElement);
  svg.replaceChildren(description);
  if (!width) return;
  const points = (state.picture?.frames ?? [])
    .map((frame) => ({ k: frame.k, value: frame[measure] ?? NaN }))
    .filter((point) => !Number.isNaN(point.value));
  const { step, digits, name } = UNITS[measure];
  if (!points.length) {
    const reason = state.picture && !state.picture.seen
      ? "Without the original there is nothing to compare with." : "";
    svg.append(shape("text", { class: "empty", x: width / 2, y: height / 2, "text-anchor": "middle" }, reason));
    description.textContent = reason;
    return;
  }
  const values = points.map((point) => point.value);
  const low = Math.floor(Math.min(...values) / step) * step;
  const high = Math.max(low + step, Math.ceil(Math.max(...values) / step) * step);
  const x = (/** @type {number} */ k) => MARGIN.left
    + (Math.log(k) / Math.log(maxK())) * (width - MARGIN.left - MARGIN.right);
  const y = (/** @type {number} */ value) => MARGIN.top
    + ((high - value) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
  const floor = height - MARGIN.bottom;

  for (let value = low; value < high + step / 2; value += step) {
    svg.append(
      shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      shape("text", { class: "axis", x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits)),
    );
  }
  for (let k = 1; k <= maxK(); k *= 4) {
    svg.append(shape("text", { class: "axis", x: x(k), y: height - 4, "text-anchor": "middle" }, k === 1 ? "k = 1" : String(k)));
  }
  const path = points.map((point, at) => `${at ? "L" : "M"}${x(point.k)} ${y(point.value)}`).join("");
  svg.append(
    shape("path", { class: "area", d: `${path}L${x(points[points.length - 1].k)} ${floor}L${x(points[0].k)} ${floor}Z` }),
    shape("path", { class: "line", d: path }),
    shape("line", { class: "cursor", x1: x(state.k), x2: x(state.k), y1: MARGIN.top, y2: floor }),
  );
  const now = points.find((point) => point.k === state.k);
  if (now) svg.append(shape("circle", { class: "now", cx: x(now.k), cy: y(now.value), r: 6 }));
  const [first, last] = [points[0], points[points.length - 1]];
  description.textContent = `${name}: ${first.value.toFixed(2)} at k = ${first.k}, `
    + `${last.value.toFixed(2)} at k = ${last.k}. Choose k by a click, or with the slider above.`;
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {string} text
 */
function shape(name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.textContent = text;
  return element;
}
