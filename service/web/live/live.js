/** The page: asks /metrics every few seconds, keeps what it said, and draws it. */

import { byId, make } from "../shared/dom.js";
import { setUpTheme } from "../shared/theme.js";
import { Chart, shown } from "./chart.js";
import { parse } from "./exposition.js";
import { clock, format } from "./format.js";
import { History, POLL_SECONDS, RATE_SECONDS } from "./history.js";
import { GENERATION, KEPT, LATENCY, LOAD, QUANTILES, TRAFFIC, quantileName } from "./panels.js";
import {
  calls,
  engines,
  fill,
  hasGenerated,
  latest,
  methods,
  stages,
  tiles,
  tokenizers,
} from "./tables.js";

const TOKEN = "channeltok-token"; // in sessionStorage, as the playground keeps it
const TIMEOUT_MS = 10_000;
const UNAUTHENTICATED = 401;

const main = byId("main", HTMLElement);
const state = byId("state", HTMLElement);
const since = byId("since", HTMLElement);
const warning = byId("warning", HTMLElement);
const method = byId("method", HTMLSelectElement);
const quantile = byId("quantile", HTMLSelectElement);
const pause = byId("pause", HTMLButtonElement);
const tokenForm = byId("token-form", HTMLFormElement);
const tokenField = byId("token", HTMLInputElement);
const tokenError = byId("token-error", HTMLElement);

const history_ = new History(KEPT);
let paused = false;
let timer = 0;
let polls = 0;

/** @type {[Chart, import("./panels.js").Panel][]} */
const charts = [];
for (const [id, panels] of /** @type {const} */ ([
  ["traffic", TRAFFIC],
  ["latency", LATENCY],
  ["load", LOAD],
  ["generation", GENERATION],
])) {
  for (const panel of panels) {
    const chart = new Chart(panel.title, panel.about, panel.unit);
    byId(id, HTMLElement).append(chart.element);
    charts.push([chart, panel]);
  }
}

/** Ask once, and again after POLL_SECONDS; not again while a token is missing. */
async function poll() {
  window.clearTimeout(timer);
  const started = Date.now();
  if (await scrape()) {
    timer = window.setTimeout(poll, Math.max(0, POLL_SECONDS * 1000 - (Date.now() - started)));
  }
  if (!paused) draw();
  polls += 1;
  main.dataset.polls = String(polls);
}

/** @returns {Promise<boolean>} whether to ask again */
async function scrape() {
  const token = read(TOKEN);
  /** @type {Response} */
  let reply;
  let text;
  try {
    reply = await fetch("metrics", {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await reply.text();
  } catch {
    history_.recordFailure(Date.now() / 1000);
    say("bad", "no answer");
    return true;
  }
  if (reply.status === UNAUTHENTICATED) {
    if (token) sessionStorage.removeItem(TOKEN);
    askForToken(token ? detailOf(text) : "");
    return false;
  }
  const now = Date.now() / 1000;
  const samples = reply.ok ? samplesOf(text) : undefined;
  if (!samples) {
    history_.recordFailure(now);
    say("bad", reply.ok ? "no metrics" : detailOf(text) || `answer ${reply.status}`);
    return true;
  }
  tokenForm.hidden = true;
  const date = Date.parse(reply.headers.get("date") ?? "");
  history_.record(samples, now, Number.isNaN(date) ? now : date / 1000);
  const ready = latest(history_, "channeltok_ready") === 1;
  say(ready ? "good" : "bad", ready ? "ready" : "not ready");
  return true;
}

/** @param {string} text of /metrics; undefined where something between has put another page */
function samplesOf(text) {
  try {
    return parse(text, history_.keeps);
  } catch {
    return undefined;
  }
}

function draw() {
  const choice = { method: method.value || undefined, quantile: Number(quantile.value) };
  offerMethods();
  byId("generation-section", HTMLElement).hidden = !hasGenerated(history_);
  for (const [chart, panel] of charts) chart.draw(history_, panel.lines(history_, choice));
  byId("tiles", HTMLElement).replaceChildren(
    ...tiles(history_).map(({ name, value, alarming }) =>
      make(
        "div",
        { className: alarming ? "alarming" : "" },
        make("dt", {}, name),
        make("dd", {}, value),
      ),
    ),
  );
  fill(byId("calls", HTMLTableElement), calls(history_));
  fill(byId("stages", HTMLTableElement), stages(history_, choice));
  fill(byId("engines", HTMLTableElement), engines(history_));
  fill(byId("tokenizers", HTMLTableElement), tokenizers(history_));
  if (history_.times.length > 0) {
    since.textContent = clock(Math.max(history_.times[0], shown(history_.times)[0]));
  }
  warning.hidden = !history_.mixed;
}

/**
 * @param {"good" | "bad" | "waiting"} kind
 * @param {string} text
 */
function say(kind, text) {
  if (state.textContent === text) return; // so that screen readers hear changes only
  state.className = kind;
  state.textContent = text;
  document.title = `${text} · ChannelTok live`;
}

/** @param {string} problem what was wrong with the last token, if there was one */
function askForToken(problem) {
  say("waiting", "needs a token");
  tokenForm.hidden = false;
  tokenError.textContent = problem;
  tokenField.setAttribute("aria-invalid", String(problem !== ""));
  tokenField.focus();
}

/** Offer the methods that were called, and keep the one chosen. */
function offerMethods() {
  const offered = [...method.options].map(({ value }) => value);
  for (const name of methods(history_)) {
    if (!offered.includes(name)) method.add(new Option(name.replace("_", " "), name));
  }
}

/** @param {string} text a problem document (RFC 9457), perhaps */
function detailOf(text) {
  try {
    return String(JSON.parse(text).detail ?? "");
  } catch {
    return "";
  }
}

/** @param {string} key */
function read(key) {
  try {
    return sessionStorage.getItem(key) ?? "";
  } catch {
    return ""; // the browser's settings forbid it
  }
}

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, tokenField.value.trim());
  tokenField.value = "";
  void poll();
});
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  if (!paused) draw();
});
for (const select of [method, quantile]) select.addEventListener("change", draw);
for (const q of QUANTILES) {
  quantile.add(new Option(quantileName(q), String(q), q === 0.95, q === 0.95));
}
for (const place of document.querySelectorAll(".rate-seconds")) {
  place.textContent = format(RATE_SECONDS, "count");
}
/** After a change between light and dark, which the system or a button of the page makes. */
function recolour() {
  for (const [chart] of charts) chart.recolour();
  draw();
}
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
new MutationObserver(recolour).observe(document.documentElement, {
  attributeFilter: ["data-theme"],
});
window.addEventListener("pagehide", () => history_.save());
setUpTheme();
history_.restore(Date.now() / 1000);
void poll();
