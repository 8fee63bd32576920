/** One chart: lines over time, and a table of them that screen readers can read. */

import { make } from "../shared/dom.js";
import { clock, format } from "./format.js";
import { POLL_SECONDS, WINDOW_SECONDS } from "./history.js";

/** @typedef {import("./history.js").History} History */
/** @typedef {import("./format.js").Unit} Unit */

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {(number | null)[]} points one for each scrape
 * @property {boolean} [limit] dashed: what the other lines may reach
 */

const HEIGHT = 170;
const MOST_LINES = 8; // as many as there are colours
const SHORTEST_SECONDS = 60;
const DASHES = [6, 4];
const POWERS_OF_TWO = Array.from({ length: 50 }, (_, power) => 2 ** power);

export class Chart {
  /** @type {uPlot | undefined} */
  #plot;
  /** @type {Line[]} */
  #lines = [];
  /** @type {HTMLTableCellElement[][]} */
  #cells = [];
  /** @type {string[]} */
  #colours = [];
  #restarts = /** @type {number[]} */ ([]);
  #unit;
  #frame;
  #message;
  #body;
  #table;
  #now;
  #rest;
  #title;

  /**
   * @param {string} title
   * @param {string} about a sentence below the title
   * @param {Unit} unit
   */
  constructor(title, about, unit) {
    this.#unit = unit;
    this.#title = title;
    this.#frame = make("div", { className: "plot", role: "img", ariaLabel: title });
    this.#message = make("p", { className: "nothing" });
    this.#now = make("th", { scope: "col" }, "now");
    this.#body = make("tbody");
    this.#rest = make("p", { className: "rest" });
    const heads = make("tr", {}, make("td"), this.#now, make("th", { scope: "col" }, "highest"));
    this.#table = make("table", { className: "lines" }, make("thead", {}, heads), this.#body);
    this.element = make(
      "figure",
      { className: "chart" },
      make("figcaption", {}, make("h3", {}, title), make("p", {}, about)),
      this.#frame,
      this.#message,
      this.#table,
      this.#rest,
    );
    new ResizeObserver(() => this.#resize()).observe(this.#frame);
  }

  /**
   * @param {History} history
   * @param {Line[]} all the lines to draw; of more than MOST_LINES those with the highest values
   */
  draw(history, all) {
    const lines = highest(all);
    const names = JSON.stringify(lines.map(({ name }) => name));
    const same = names === JSON.stringify(this.#lines.map(({ name }) => name));
    this.#lines = lines;
    this.#restarts = history.restarts;
    const empty = !lines.some(({ points }) => points.some((value) => value !== null));
    this.#message.textContent = empty ? "nothing yet" : "";
    this.#table.hidden = lines.length === 0;
    this.#rest.textContent =
      all.length > lines.length ? `and ${all.length - lines.length} lower ones` : "";
    if (!same || !this.#plot) this.#build(history);
    else this.#plot.setData(data(history, lines));
    this.#show(this.#plot?.cursor.idx ?? null);
  }

  /** Read the colours anew, after a change between light and dark. */
  recolour() {
    this.#plot?.destroy();
    this.#plot = undefined;
  }

  /** @param {History} history */
  #build(history) {
    this.#plot?.destroy();
    let next = 0;
    this.#colours = this.#lines.map(({ limit }) =>
      this.#colour(limit ? "--muted" : `--line-${(next++ % MOST_LINES) + 1}`),
    );
    const axis = {
      stroke: this.#colour("--muted"),
      grid: { stroke: this.#colour("--line"), width: 1 },
      ticks: { show: false },
      font: `12px ${getComputedStyle(this.element).fontFamily}`,
    };
    const muted = axis.stroke;
    this.#plot = new uPlot(
      {
        width: this.#frame.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { sync: { key: "live" }, drag: { x: false, y: false }, y: false },
        scales: {
          x: { time: true, range: () => shown(history.times) },
          y: { range: (_, __, max) => [0, ceiling(max)] },
        },
        axes: [
          { ...axis, size: 28, space: 70, values: (_, times) => ticks(times) },
          {
            ...axis,
            size: 64,
            space: 34,
            ...(this.#unit === "bytes" && { incrs: POWERS_OF_TWO }),
            values: (_, values) =>
              values.map((value) => (value === 0 ? "0" : format(value, this.#unit))),
          },
        ],
        series: [
          {},
          ...this.#lines.map(({ limit }, index) => ({
            stroke: this.#colours[index],
            width: limit ? 1.5 : 2,
            ...(limit && { dash: DASHES }),
            points: {
              size: 5,
              /** @type {uPlot.Series.Points.Filter} */
              filter: (plot, line) => isolated(plot.data[line]),
            },
          })),
        ],
        hooks: {
          setCursor: [(plot) => this.#show(plot.cursor.idx ?? null)],
          draw: [(plot) => this.#drawRestarts(plot, muted)],
        },
      },
      data(history, this.#lines),
      this.#frame,
    );
    this.#cells = this.#lines.map(() => [make("td"), make("td")]);
    this.#body.replaceChildren(
      ...this.#lines.map(({ name, limit }, index) => {
        const swatch = make("span", { className: limit ? "swatch limit" : "swatch" });
        swatch.style.borderColor = this.#colours[index];
        const header = make("th", { scope: "row" }, swatch, name);
        return make("tr", {}, header, ...this.#cells[index]);
      }),
    );
  }

  /**
   * Write the values at a scrape, and the highest ones.
   *
   * @param {number | null} at the last scrape when null
   */
  #show(at) {
    const plot = this.#plot;
    if (!plot) return;
    const times = plot.data[0];
    const index = at ?? times.length - 1;
    this.#now.textContent = at === null || times.length === 0 ? "now" : clock(times[index]);
    const [from] = shown(times);
    const texts = this.#lines.map(({ points }, line) => {
      const inWindow = points.filter((value, at) => value !== null && times[at] >= from);
      const [now, most] = this.#cells[line];
      now.textContent = format(points[index], this.#unit);
      most.textContent = inWindow.length
        ? format(Math.max(.../** @type {number[]} */ (inWindow)), this.#unit)
        : "–";
      return `${this.#lines[line].name} ${format(points[points.length - 1], this.#unit)}`;
    });
    this.#frame.ariaLabel = `${this.#title}: ${texts.join(", ") || "nothing yet"}`;
  }

  /**
   * @param {uPlot} plot
   * @param {string} colour
   */
  #drawRestarts(plot, colour) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.setLineDash([2, 3]);
    for (const time of this.#restarts) {
      const x = Math.round(plot.valToPos(time, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /**
   * A colour of the style sheet as a canvas understands it.
   *
   * @param {string} name
   */
  #colour(name) {
    this.#message.style.color = `var(${name})`;
    const { color } = getComputedStyle(this.#message);
    this.#message.style.color = "";
    return color;
  }

  #resize() {
    const width = this.#frame.clientWidth;
    if (this.#plot && width > 0 && width !== this.#plot.width) {
      this.#plot.setSize({ width, height: HEIGHT });
    }
  }
}

/**
 * The time that charts show: up to 15 minutes, less where the page has been open for less.
 *
 * @param {ArrayLike<number>} times
 * @returns {[number, number]}
 */
export function shown(times) {
  if (times.length === 0) {
    const now = Date.now() / 1000;
    return [now - SHORTEST_SECONDS, now];
  }
  const last = times[times.length - 1];
  const first = Math.min(times[0], last - SHORTEST_SECONDS);
  return [Math.max(first, last - WINDOW_SECONDS - POLL_SECONDS), last];
}

/**
 * @param {History} history
 * @param {Line[]} lines
 */
function data(history, lines) {
  return /** @type {uPlot.AlignedData} */ ([history.times, ...lines.map(({ points }) => points)]);
}

/**
 * Indices of values without a neighbour, which no line shows.
 *
 * @param {ArrayLike<number | null | undefined>} values
 */
function isolated(values) {
  return Array.from(values, (_, at) => at).filter(
    (at) =>
      (values[at] ?? null) !== null &&
      (values[at - 1] ?? null) === null &&
      (values[at + 1] ?? null) === null,
  );
}

/** @param {Line[]} lines */
function highest(lines) {
  if (lines.length <= MOST_LINES) return lines;
  /** @param {Line} line */
  const peak = ({ points }) => Math.max(...points.map((value) => value ?? 0));
  const chosen = [...lines].sort((a, b) => peak(b) - peak(a)).slice(0, MOST_LINES);
  return lines.filter((line) => chosen.includes(line));
}

/** @param {number | null} max */
function ceiling(max) {
  return max === null || max <= 0 ? 1 : max * 1.1;
}

/** @param {number[]} times */
function ticks(times) {
  const inMinutes = times.every((time) => time % 60 === 0);
  return times.map((time) => clock(time, !inMinutes));
}
