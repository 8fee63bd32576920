/** What is drawn: which metrics, by which labels. docs/metrics.md says what they mean. */

/** @typedef {import("./history.js").History} History */
/** @typedef {import("./chart.js").Line} Line */
/** @typedef {import("./format.js").Unit} Unit */

/**
 * What the page lets people choose.
 *
 * @typedef {object} Choice
 * @property {string | undefined} method an rpc; all when undefined
 * @property {number} quantile of stages
 */

/**
 * @typedef {object} Panel
 * @property {string} title
 * @property {string} about
 * @property {Unit} unit
 * @property {(history: History, choice: Choice) => Line[]} lines
 */

/** Metrics that the page uses -> the labels that it needs; they are summed over others. */
export const KEPT = {
  channeltok_request_seconds_bucket: ["rpc", "code", "le"],
  channeltok_request_seconds_count: ["rpc", "code"],
  channeltok_stage_seconds_bucket: ["rpc", "stage", "le"],
  channeltok_errors_total: ["rpc", "code"],
  channeltok_memory_refused_total: [],
  channeltok_batch_size_sum: ["model"],
  channeltok_batch_size_count: ["model"],
  channeltok_images_in_flight: ["rpc"],
  channeltok_images_in_flight_limit: [],
  channeltok_images_waiting: ["priority"],
  channeltok_image_decodes_waiting: ["lane"],
  channeltok_memory_reserved_bytes: ["use"],
  channeltok_memory_limit_bytes: [],
  channeltok_generations_in_flight: [],
  channeltok_generations_in_flight_limit: [],
  channeltok_time_to_first_token_seconds_bucket: ["le"],
  channeltok_inter_token_latency_seconds_bucket: ["le"],
  channeltok_engine_restarts_total: ["component"],
  channeltok_image_worker_restarts_total: ["reason"],
  channeltok_engine_ready: ["model"],
  channeltok_engine_info: ["model", "engine"],
  channeltok_tokenizer_info: ["tokenizer", "fingerprint"],
  channeltok_ready: [],
  process_cpu_seconds_total: ["worker"],
  nv_inference_count: ["model", "version"],
  nv_inference_pending_request_count: ["model"],
};

export const QUANTILES = [0.5, 0.95, 0.99];
/** Refusals: the service protects itself or its callers from each other; nothing is broken. */
const REFUSALS = ["OVERLOADED", "RATE_LIMITED", "STOPPING", "UNAUTHENTICATED", "FORBIDDEN"];
/** Codes that are the service's fault, as in deploy/prometheus/rules/objectives.yml. */
export const FAULTS = ["ENGINE_UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"];

/** @param {number} q */
export function quantileName(q) {
  return `p${Math.round(q * 100)}`;
}

/** @type {Panel[]} */
export const TRAFFIC = [
  {
    title: "Calls by method",
    about: "Calls and items of streams that ended, per second.",
    unit: "perSecond",
    lines: (history) => rates(history, "channeltok_request_seconds_count", "rpc"),
  },
  {
    title: "Calls by code",
    about: "OK, the code of an error, or CANCELLED by the caller.",
    unit: "perSecond",
    lines: (history) => rates(history, "channeltok_request_seconds_count", "code"),
  },
  {
    title: "Refused",
    about: "Too many calls, or no token: expected answers, not faults.",
    unit: "perSecond",
    lines: (history) => [
      ...rates(history, "channeltok_errors_total", "code", { code: REFUSALS }),
      ...rates(history, "channeltok_memory_refused_total")
        .filter(({ points }) => points.some((value) => value !== null && value > 0))
        .map(({ points }) => ({ name: "of these, for memory", points })),
    ],
  },
];

/** @type {Panel[]} */
export const LATENCY = [
  {
    title: "Latency",
    about: "From a call's arrival to its reply; calls that succeeded.",
    unit: "seconds",
    lines: (history, { method }) =>
      quantileLines(history, "channeltok_request_seconds", { rpc: method, code: "OK" }),
  },
  {
    title: "Stages",
    about: "Where these calls spent their time, at the quantile chosen above.",
    unit: "seconds",
    lines: (history, { method, quantile }) =>
      history
        .quantiles("channeltok_stage_seconds", [quantile], ["stage"], { rpc: method })
        .map(({ labels, points }) => ({ name: labels.stage, points: points[0] })),
  },
];

/** @type {Panel[]} */
export const LOAD = [
  {
    title: "In flight",
    about: "Images admitted and not yet answered. At the limit, others wait.",
    unit: "count",
    lines: (history) => [
      ...gauges(history, "channeltok_images_in_flight", "rpc"),
      ...limit(history, "channeltok_images_in_flight_limit"),
    ],
  },
  {
    title: "Queue",
    about: "Images that wait: for a permit, for a process that decodes them, or in Triton.",
    unit: "count",
    lines: (history) => [
      ...gauges(history, "channeltok_images_waiting", "priority"),
      ...gauges(history, "channeltok_image_decodes_waiting", "lane", "decoder, "),
      ...gauges(history, "nv_inference_pending_request_count", undefined, "Triton"),
    ],
  },
  {
    title: "Batch size",
    about: "Mean over images of how many were computed together, by model.",
    unit: "count",
    lines: (history) => {
      const counts = history.sum("channeltok_batch_size_count", ["model"]);
      return history.sum("channeltok_batch_size_sum", ["model"]).map(({ labels, points }) => ({
        name: labels.model,
        points: history.mean(
          points,
          counts.find((count) => count.labels.model === labels.model)?.points ?? [],
        ),
      }));
    },
  },
  {
    title: "Memory",
    about: "Reserved for messages and images. At the limit, calls wait and are then refused.",
    unit: "bytes",
    lines: (history) => [
      ...gauges(history, "channeltok_memory_reserved_bytes", "use"),
      ...limit(history, "channeltok_memory_limit_bytes"),
    ],
  },
  {
    title: "Processor",
    about: "Cores that the gateway takes, without Triton and the processes that decode images.",
    unit: "count",
    lines: (history) =>
      rates(history, "process_cpu_seconds_total").map((line) => ({ ...line, name: "cores" })),
  },
  {
    title: "Restarts",
    about: "Of Triton, its models, workers, and processes that decode images; since the left edge.",
    unit: "count",
    lines: (history) => [
      ...history.sum("channeltok_engine_restarts_total", ["component"]).map((group) => ({
        name: group.labels.component,
        points: sinceStart(history, group.points),
      })),
      ...history
        .sum("channeltok_image_worker_restarts_total", [])
        .map(({ points }) => ({ name: "image worker", points: sinceStart(history, points) })),
    ],
  },
];

/** Shown once something was generated. @type {Panel[]} */
export const GENERATION = [
  {
    title: "Generations in flight",
    about: "Images that are being generated.",
    unit: "count",
    lines: (history) => [
      ...gauges(history, "channeltok_generations_in_flight", undefined, "in flight"),
      ...limit(history, "channeltok_generations_in_flight_limit"),
    ],
  },
  {
    title: "Time to first token",
    about: "From the arrival of a call to its first new token.",
    unit: "seconds",
    lines: (history) => quantileLines(history, "channeltok_time_to_first_token_seconds"),
  },
  {
    title: "Inter-token latency",
    about: "Time between two tokens of one generation.",
    unit: "seconds",
    lines: (history) => quantileLines(history, "channeltok_inter_token_latency_seconds"),
  },
];

/**
 * @param {History} history
 * @param {string} name
 * @param {string} [by]
 * @param {Record<string, string | string[]>} [where]
 * @returns {Line[]}
 */
export function rates(history, name, by, where) {
  return history.sum(name, by ? [by] : [], where).map(({ labels, points }) => ({
    name: by ? labels[by] : name,
    points: history.rate(points),
  }));
}

/**
 * @param {History} history
 * @param {string} name
 * @param {string} [by]
 * @param {string} [prefix] of the names of lines
 * @returns {Line[]}
 */
function gauges(history, name, by, prefix = "") {
  return history.sum(name, by ? [by] : []).map(({ labels, points }) => ({
    name: by ? `${prefix}${labels[by]}` : prefix,
    points,
  }));
}

/**
 * @param {History} history
 * @param {string} name
 * @returns {Line[]}
 */
function limit(history, name) {
  return gauges(history, name, undefined, "limit").map((line) => ({ ...line, limit: true }));
}

/**
 * @param {History} history
 * @param {string} name
 * @param {Record<string, string | undefined>} [where]
 * @returns {Line[]}
 */
function quantileLines(history, name, where) {
  const [found] = history.quantiles(name, QUANTILES, [], where);
  return QUANTILES.map((q, index) => ({
    name: quantileName(q),
    points: found ? found.points[index] : history.times.map(() => null),
  }));
}

/**
 * @param {History} history
 * @param {(number | null)[]} totals
 */
function sinceStart(history, totals) {
  const first = totals[history.answered.indexOf(true)] ?? 0;
  return totals.map((total, at) => (history.answered[at] ? (total ?? 0) - first : null));
}
