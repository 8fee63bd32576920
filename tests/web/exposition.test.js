import assert from "node:assert/strict";
import { test } from "node:test";

import { parse } from "../../service/web/live/exposition.js";

test("parse reads names, labels and values", () => {
  const text = [
    "# HELP calls_total Calls, by code",
    "# TYPE calls_total counter",
    'calls_total{rpc="encode",code="OK"} 7.0',
    "# TYPE limit gauge",
    "limit 1.6e+01",
    "",
  ].join("\n");
  assert.deepEqual(parse(text), [
    { name: "calls_total", labels: { rpc: "encode", code: "OK" }, value: 7, counter: true },
    { name: "limit", labels: {}, value: 16, counter: false },
  ]);
});

test("parse knows the parts of a histogram as counters, and infinities", () => {
  const text = [
    "# TYPE seconds histogram",
    'seconds_bucket{le="0.1"} 1',
    'seconds_bucket{le="+Inf"} 2',
    "seconds_sum 0.5",
    "seconds_count 2",
    "# TYPE ready gauge",
    "ready NaN",
    "low -Inf",
  ].join("\n");
  const samples = parse(text);
  assert.deepEqual(samples.map(({ counter }) => counter), [true, true, true, true, false, false]);
  assert.deepEqual(samples.map(({ value }) => value), [1, 2, 0.5, 2, NaN, -Infinity]);
});

test("parse undoes escapes, and takes braces, commas and spaces in values", () => {
  const [{ labels }] = parse('a{one="\\"q\\" \\\\ \\n}",two=" x, y=\\"1\\" ",} 1 1700000000000');
  assert.deepEqual(labels, { one: '"q" \\ \n}', two: ' x, y="1" ' });
});

test("parse leaves out what is not wanted", () => {
  assert.deepEqual(
    parse("a 1\nb 2\n", (name) => name === "b").map(({ name }) => name),
    ["b"],
  );
});

test("parse refuses what is no metric, with the line", () => {
  for (const line of ["<html>", 'a{b="c} 1', 'a{b=c} 1', "a", "a one", 'a{b="c" d="e"} 1']) {
    assert.throws(() => parse(`ok 1\n${line}\n`), (error) => {
      assert(error instanceof SyntaxError);
      assert(error.message.includes(line));
      return true;
    });
  }
});
