import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { History } from "../../service/web/live/history.js";

const KEPT = {
  calls_total: ["rpc"],
  seconds_bucket: ["rpc", "le"],
  in_flight: [],
  cpu_total: ["worker"],
};
const NOW = 1_700_000_000;

/** A sample of calls_total. */
const calls = (value, rpc = "encode", more = {}) => ({
  name: "calls_total", labels: { rpc, ...more }, value, counter: true,
});
const gauge = (value) => ({ name: "in_flight", labels: {}, value, counter: false });
const start = (value, labels = {}) => ({
  name: "process_start_time_seconds", labels, value, counter: false,
});
const bucket = (le, value, rpc = "encode") => ({
  name: "seconds_bucket", labels: { rpc, le }, value, counter: true,
});

/** A history of these scrapes, five seconds apart; null for one without an answer. */
function recorded(...scrapes) {
  const history = new History(KEPT);
  scrapes.forEach((samples, at) => {
    if (samples === null) history.recordFailure(NOW + 5 * at);
    else history.record(samples, NOW + 5 * at);
  });
  return history;
}

const rateOf = (history, where) => history.rate(history.sum("calls_total", [], where)[0].points);

beforeEach(() => {
  const stored = new Map();
  globalThis.sessionStorage = {
    getItem: (key) => stored.get(key) ?? null,
    setItem: (key, value) => stored.set(key, value),
    removeItem: (key) => stored.delete(key),
  };
});

test("History.rate is the growth over four polls", () => {
  const history = recorded(...[100, 110, 130, 130, 150, 170].map((value) => [calls(value)]));
  assert.deepEqual(rateOf(history), [null, 10 / 5, 30 / 10, 30 / 15, 50 / 20, 60 / 20]);
});

test("History.sum adds up by labels", () => {
  const history = recorded(
    [calls(1), calls(5, "decode"), gauge(2)],
    [calls(11), calls(25, "decode"), gauge(3)],
  );
  assert.deepEqual(
    history.sum("calls_total", ["rpc"]).map(({ labels, points }) => [labels.rpc, points]),
    [["encode", [0, 10]], ["decode", [0, 20]]],
  );
  assert.deepEqual(rateOf(history), [null, 6]);
  assert.deepEqual(rateOf(history, { rpc: "decode" }), [null, 4]);
  assert.deepEqual(rateOf(history, { rpc: ["encode", "decode"] }), [null, 6]);
  assert.deepEqual(history.sum("in_flight", [])[0].points, [2, 3]);
  assert.deepEqual(history.sum("unknown", []), []);
});

test("History adds up series whose other labels differ", () => {
  const history = recorded(
    [calls(1, "encode", { budget: "8" }), calls(2, "encode", { budget: "16" })],
    [calls(6, "encode", { budget: "8" }), calls(7, "encode", { budget: "16" })],
  );
  assert.deepEqual(rateOf(history), [null, 2]);
});

test("History counts a series that appears later from 0", () => {
  const history = recorded([calls(1)], [calls(1), calls(10, "decode")]);
  assert.deepEqual(rateOf(history, { rpc: "decode" }), [null, 2]);
});

test("History counts on from the last value when a series was missing for a while", () => {
  const history = recorded([calls(1000)], [], [calls(1010)]);
  assert.deepEqual(rateOf(history), [null, 0, 1]);
});

test("History takes a counter that fell as one that was set to 0", () => {
  const history = recorded([calls(1000)], [calls(1010)], [calls(5)], [calls(15)]);
  assert.deepEqual(rateOf(history), [null, 2, 1.5, 25 / 15]);
});

test("History counts from 0 after a restart, even when the counter did not fall", () => {
  const history = recorded(
    [calls(10), start(NOW - 100)],
    null,
    [calls(20), start(NOW + 7)],
    [calls(30), start(NOW + 7)],
  );
  assert.deepEqual(history.restarts, [NOW + 10]);
  assert.equal(history.mixed, false);
  assert.deepEqual(rateOf(history), [null, null, 2, 2]);
});

test("History sees that another service answers, and ignores what it counted before", () => {
  const history = recorded(
    [calls(10), start(NOW - 100)],
    [calls(99_000), start(NOW - 50)],
    [calls(20), start(NOW - 100)],
  );
  assert.equal(history.mixed, true);
  assert.deepEqual(history.restarts, []);
  assert.deepEqual(rateOf(history), [null, 0, 0]);
});

test("History goes on when a worker is replaced", () => {
  const workers = (one, two) => [
    start(NOW - 100, { worker: "parent" }), start(two, { worker: "1" }),
    { name: "cpu_total", labels: { worker: "1" }, value: one, counter: true },
    { name: "cpu_total", labels: { worker: "2" }, value: 500, counter: true },
  ];
  const history = recorded(workers(100, NOW - 99), workers(1, NOW + 3));
  assert.deepEqual(history.restarts, []);
  assert.deepEqual(history.rate(history.sum("cpu_total", [])[0].points), [null, 1 / 5]);
});

test("History draws nothing at polls without an answer, but counts what happened", () => {
  const history = recorded([calls(0), gauge(1)], null, [calls(10), gauge(2)]);
  assert.deepEqual(rateOf(history), [null, null, 1]);
  assert.deepEqual(history.sum("in_flight", [])[0].points, [1, null, 2]);
});

test("History breaks lines where the page slept", () => {
  const history = recorded([calls(0)]);
  history.record([calls(60)], NOW + 60);
  assert.deepEqual(rateOf(history), [null, 1]);
  history.record([calls(660)], NOW + 660);
  assert.deepEqual(rateOf(history), [null, 1, null, 1]);
});

test("History forgets what is older than 15 minutes", () => {
  const history = new History(KEPT);
  for (let at = 0; at < 400; at++) history.record([calls(at), gauge(at)], NOW + 5 * at);
  const last = NOW + 5 * 399;
  assert(history.times[0] < last - 900 && history.times[0] >= last - 930);
  assert(rateOf(history).every((rate, at) => at === 0 || rate === 0.2));
  assert.equal(history.sum("in_flight", [])[0].points.length, history.times.length);
});

test("History.quantiles are of what was counted over four polls", () => {
  const at = (low, all) => [bucket("0.1", low), bucket("0.2", all), bucket("+Inf", all)];
  const history = recorded(at(900, 1000), at(900, 1000), at(905, 1010));
  const [{ points }] = history.quantiles("seconds", [0.5, 0.9], []);
  assert.deepEqual(points[0], [null, null, 0.1]);
  assert.deepEqual(points[1].map((value) => value && value.toFixed(6)), [null, null, "0.180000"]);
});

test("History.quantiles sums buckets over labels before it looks", () => {
  const history = recorded(
    [],
    [bucket("1", 0), bucket("+Inf", 10), bucket("1", 30, "decode"), bucket("+Inf", 30, "decode")],
    [bucket("1", 0), bucket("+Inf", 10), bucket("1", 30, "decode"), bucket("+Inf", 30, "decode")],
  );
  assert.equal(history.quantiles("seconds", [0.5], [])[0].points[0][2], 20 / 30);
  const byRpc = history.quantiles("seconds", [0.5], ["rpc"]);
  assert.deepEqual(byRpc.map(({ labels, points }) => [labels.rpc, points[0][2]]), [
    ["encode", 1],
    ["decode", 0.5],
  ]);
});

test("History.summary and growth are of the whole window", () => {
  const at = (low, all) => [bucket("1", low), bucket("+Inf", all), calls(all)];
  const history = recorded(at(10, 10), at(14, 16), at(18, 20));
  const [{ count, quantiles }] = history.summary("seconds", [0.4], ["rpc"]);
  assert.deepEqual([count, quantiles], [10, [0.5]]);
  assert.equal(history.growth(history.sum("calls_total", [])[0].points), 10);
});

test("History is taken over after a reload, and goes on without a jump", () => {
  const before = recorded([calls(5), gauge(1), start(NOW)], [calls(15), gauge(NaN), start(NOW)]);
  before.save();
  const after = new History(KEPT);
  after.restore(NOW + 7);
  after.record([calls(40), gauge(3), start(NOW)], NOW + 10);
  assert.deepEqual(rateOf(after), [null, 2, 3.5]);
  assert.deepEqual(after.sum("in_flight", [])[0].points, [1, null, 3]);
  assert.deepEqual(after.times, [NOW, NOW + 5, NOW + 10]);
});

test("History begins anew after 15 minutes, and with what it cannot read", () => {
  recorded([calls(5)], [calls(15)]).save();
  const late = new History(KEPT);
  late.restore(NOW + 3600);
  assert.deepEqual(late.times, []);
  for (const text of ["{", '{"version": 1}', '{"version": 99, "times": [1]}', "null"]) {
    sessionStorage.setItem("channeltok-live-history", text);
    const history = new History(KEPT);
    history.restore(NOW);
    assert.deepEqual(history.times, []);
    history.record([calls(5)], NOW);
    assert.deepEqual(history.times, [NOW]);
  }
});
