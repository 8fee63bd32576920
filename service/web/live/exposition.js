/** The text format of Prometheus, version 0.0.4, as /metrics has it. */

/**
 * @typedef {object} Sample
 * @property {string} name such as `channeltok_request_seconds_bucket`
 * @property {Record<string, string>} labels
 * @property {number} value
 * @property {boolean} counter whether it only grows: a counter, or a part of a histogram
 */

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*$/;
const LABEL = /[ \t]*([a-zA-Z_]\w*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,[ \t]*|$)/y;
const TYPE = /^#[ \t]+TYPE[ \t]+(\S+)[ \t]+(\w+)/;
const COUNTERS = new Set(["counter", "histogram", "summary"]);

/**
 * The samples of those metrics whose name is wanted.
 *
 * @param {string} text
 * @param {(name: string) => boolean} [wanted] every name when absent
 * @returns {Sample[]}
 * @throws {SyntaxError} with the line that cannot be read
 */
export function parse(text, wanted = () => true) {
  const samples = [];
  let family = "";
  let growing = false;
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) {
      const type = TYPE.exec(line);
      if (type) [family, growing] = [type[1], COUNTERS.has(type[2])];
      continue;
    }
    if (line.trim() === "") continue;
    const match = SAMPLE.exec(line);
    if (!match) throw new SyntaxError(`not a line of metrics: ${line}`);
    const [, name, labels, value] = match;
    if (!wanted(name)) continue;
    samples.push({
      name,
      labels: labels === undefined ? {} : parseLabels(labels, line),
      value: parseNumber(value, line),
      counter: growing && name.startsWith(family),
    });
  }
  return samples;
}

/**
 * @param {string} text what is between the braces
 * @param {string} line
 */
function parseLabels(text, line) {
  /** @type {Record<string, string>} */
  const labels = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.trimEnd().length) {
    const match = LABEL.exec(text);
    if (!match) throw new SyntaxError(`not a line of metrics: ${line}`);
    labels[match[1]] = match[2].replace(/\\(.)/g, (_, escaped) =>
      escaped === "n" ? "\n" : escaped,
    );
  }
  return labels;
}

/**
 * @param {string} text
 * @param {string} line
 */
export function parseNumber(text, line = text) {
  if (text === "NaN") return NaN;
  const infinite = /^([+-]?)Inf$/.exec(text);
  if (infinite) return infinite[1] === "-" ? -Infinity : Infinity;
  const value = Number(text);
  if (Number.isNaN(value)) throw new SyntaxError(`not a line of metrics: ${line}`);
  return value;
}
