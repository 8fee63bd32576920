import assert from "node:assert/strict";
import { test } from "node:test";

import { histogramQuantile } from "../../service/web/live/quantile.js";

// Buckets and expected values of Prometheus's own tests (promql/promqltest, histograms.test).
const POSITIVE = [[0.1, 5], [0.2, 7], [1, 11], [Infinity, 12]];
const NEGATIVE = [[-0.2, 1], [-0.1, 2], [0.3, 2], [Infinity, 3]];

const close = (actual, expected) =>
  assert(Math.abs(actual - expected) < 1e-9, `${actual} is not ${expected}`);

test("histogramQuantile interpolates as Prometheus does", () => {
  close(histogramQuantile(0, POSITIVE), 0);
  close(histogramQuantile(0.2, POSITIVE), 0.048);
  close(histogramQuantile(0.5, POSITIVE), 0.15);
  close(histogramQuantile(0.8, POSITIVE), 0.72);
  close(histogramQuantile(1, POSITIVE), 1);
  close(histogramQuantile(0.2, NEGATIVE), -0.2);
  close(histogramQuantile(0.5, NEGATIVE), -0.15);
  close(histogramQuantile(0.8, NEGATIVE), 0.3);
});

test("histogramQuantile gives the lower end of the last bucket, which has no upper end", () => {
  assert.equal(histogramQuantile(0.99, [[1, 0], [2, 0], [Infinity, 5]]), 2);
});

test("histogramQuantile of nothing is not a number", () => {
  assert.equal(histogramQuantile(0.5, []), NaN);
  assert.equal(histogramQuantile(0.5, [[1, 0], [Infinity, 0]]), NaN);
  assert.equal(histogramQuantile(0.5, [[1, 4], [2, 5]]), NaN);
});

test("histogramQuantile takes counts that fall as read at different times", () => {
  const raced = [[1, 4], [2, 3], [Infinity, 4]];
  assert.equal(histogramQuantile(0.5, raced), 0.5);
});
