/** The numbers beside the charts: tiles of the present, and tables of the whole window. */

import { make } from "../shared/dom.js";
import { format } from "./format.js";
import { FAULTS, QUANTILES, rates } from "./panels.js";

/** @typedef {import("./history.js").History} History */
/** @typedef {import("./panels.js").Choice} Choice */

const CALLS = "channeltok_request_seconds";

/**
 * What to see first: name, value, and whether it deserves attention.
 *
 * @param {History} history
 * @returns {{name: string, value: string, alarming: boolean}[]}
 */
export function tiles(history) {
  const calls = latestSum(rates(history, `${CALLS}_count`));
  const failed = latestSum(rates(history, `${CALLS}_count`, undefined, { code: FAULTS }));
  const refused = latestSum(
    rates(history, "channeltok_errors_total", undefined, { code: ["OVERLOADED", "RATE_LIMITED"] }),
  );
  const [single] = history.quantiles(CALLS, [0.95], [], { rpc: ["encode", "decode"], code: "OK" });
  const inFlight = latest(history, "channeltok_images_in_flight") ?? 0;
  const limit = latest(history, "channeltok_images_in_flight_limit");
  const waiting = latest(history, "channeltok_images_waiting") ?? 0;
  const restarts = history
    .sum("channeltok_engine_restarts_total", [])
    .reduce((total, { points }) => total + history.growth(points), 0);
  const served = servedEngines(history);
  const working = served.filter(({ ready }) => ready === 1).length;
  return [
    { name: "Calls", value: format(calls, "perSecond"), alarming: false },
    {
      name: "Failed",
      value: format(calls ? (failed ?? 0) / calls : calls, "share"),
      alarming: (failed ?? 0) > 0,
    },
    {
      name: "Latency, p95",
      value: format(single?.points[0].at(-1), "seconds"),
      alarming: false,
    },
    {
      name: "In flight",
      value: `${format(inFlight, "count")} of ${format(limit, "count")}`,
      alarming: limit !== null && limit > 0 && inFlight >= limit,
    },
    { name: "Waiting", value: format(waiting, "count"), alarming: false },
    { name: "Refused", value: format(refused ?? 0, "perSecond"), alarming: (refused ?? 0) > 0 },
    {
      name: "Engines ready",
      value: `${format(working, "count")} of ${format(served.length, "count")}`,
      alarming: working < served.length,
    },
    {
      name: "Restarts",
      value: format(restarts + history.restarts.length, "count"),
      alarming: restarts + history.restarts.length > 0,
    },
  ];
}

/**
 * Calls of the window, by method and code.
 *
 * @param {History} history
 * @returns {string[][]}
 */
export function calls(history) {
  return history
    .summary(CALLS, QUANTILES, ["rpc", "code"])
    .filter(({ count }) => count > 0)
    .map(({ labels, count, quantiles }) => [
      labels.rpc,
      labels.code,
      format(count, "count"),
      ...quantiles.map((value) => format(value, "seconds")),
    ]);
}

/**
 * Stages of the window, of the method chosen.
 *
 * @param {History} history
 * @param {Choice} choice
 * @returns {string[][]}
 */
export function stages(history, { method }) {
  return history
    .summary("channeltok_stage_seconds", QUANTILES, ["stage"], { rpc: method })
    .filter(({ count }) => count > 0)
    .map(({ labels, count, quantiles }) => [
      labels.stage,
      format(count, "count"),
      ...quantiles.map((value) => format(value, "seconds")),
    ]);
}

/**
 * Engines that are served: Triton's models.
 *
 * @param {History} history
 * @returns {string[][]}
 */
export function engines(history) {
  const inferences = history.sum("nv_inference_count", ["model", "version"]);
  const infos = history.sum("channeltok_engine_info", ["model", "engine"]);
  const restarts = history.sum("channeltok_engine_restarts_total", ["component"]);
  return servedEngines(history).map(({ model, ready }) => {
    const info = infos.find(({ labels, points }) => labels.model === model && points.at(-1) === 1);
    const inference = inferences.filter(({ labels }) => labels.model === model).at(-1);
    const restarted = restarts.find(({ labels }) => labels.component === model);
    return [
      model,
      info?.labels.engine ?? "–",
      ready === 1 ? "ready" : "failed",
      inference?.labels.version ?? "–",
      inference ? format(history.rate(inference.points).at(-1), "perSecond") : "–",
      format(restarted ? history.growth(restarted.points) : 0, "count"),
    ];
  });
}

/** @param {History} history */
function servedEngines(history) {
  return history
    .sum("channeltok_engine_ready", ["model"])
    .map(({ labels: { model }, points }) => ({ model, ready: points.at(-1) }))
    .filter(({ ready }) => typeof ready === "number" && !Number.isNaN(ready));
}

/**
 * Tokenizers and the fingerprint that each name stands for now.
 *
 * @param {History} history
 * @returns {string[][]}
 */
export function tokenizers(history) {
  return history
    .sum("channeltok_tokenizer_info", ["tokenizer", "fingerprint"])
    .filter(({ points }) => points.at(-1) === 1 || points.at(-1) === 0)
    .map(({ labels, points }) => [
      labels.tokenizer,
      labels.fingerprint,
      points.at(-1) === 1 ? "served" : "replaced",
    ]);
}

/**
 * The methods that were called since the service started.
 *
 * @param {History} history
 * @returns {string[]}
 */
export function methods(history) {
  return history.sum(`${CALLS}_count`, ["rpc"]).map(({ labels }) => labels.rpc);
}

/**
 * Whether something was generated since the service started, or is being generated.
 *
 * @param {History} history
 */
export function hasGenerated(history) {
  const counted = history.sum("channeltok_time_to_first_token_seconds_bucket", []).length > 0;
  return counted || (latest(history, "channeltok_generations_in_flight") ?? 0) > 0;
}

/**
 * The last value of a gauge, summed over its labels; null where there is none.
 *
 * @param {History} history
 * @param {string} name
 */
export function latest(history, name) {
  return history.sum(name, [])[0]?.points.at(-1) ?? null;
}

/** @param {{points: (number | null)[]}[]} lines */
function latestSum(lines) {
  return lines[0]?.points.at(-1) ?? null;
}

/**
 * Write rows into the body of a table; one row that says so when there are none.
 *
 * @param {HTMLTableElement} table
 * @param {string[][]} rows the first cell of each is its header
 */
export function fill(table, rows) {
  const columns = table.tHead?.rows[0].cells.length ?? 1;
  const made = rows.map(([header, ...cells]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, header),
      ...cells.map((text) => make("td", {}, text)),
    ),
  );
  if (made.length === 0) {
    const nothing = make("td", { colSpan: columns, className: "nothing" }, "nothing yet");
    made.push(make("tr", {}, nothing));
  }
  table.tBodies[0].replaceChildren(...made);
}
