/**
 * What /metrics said over the last 15 minutes.
 *
 * Counters are kept as what they grew by since the page opened. So a restart of the service, which
 * sets them to 0, is handled in one place, and everything drawn is a difference of two points.
 */

import { parseNumber } from "./exposition.js";
import { histogramQuantile } from "./quantile.js";

/** @typedef {import("./exposition.js").Sample} Sample */

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {Record<string, string>} labels
 * @property {boolean} counter
 * @property {number} last its value in the last scrape that had it
 * @property {(number | null)[]} points one for each scrape; null for a gauge that was not there
 */

/**
 * Series summed by some of their labels.
 *
 * @typedef {object} Group
 * @property {Record<string, string>} labels the labels that they were summed by
 * @property {(number | null)[]} points one for each scrape
 */

export const POLL_SECONDS = 5;
export const WINDOW_SECONDS = 15 * 60;
/** Rates and quantiles are over this time before each point: four polls, as Grafana does. */
export const RATE_SECONDS = 4 * POLL_SECONDS;
/** No line is drawn over a longer time without scrapes. Hidden pages may poll once a minute. */
const BREAK_SECONDS = 90;
const CLOCK_SECONDS = 2; // precision of the times that a service reports
const START = "process_start_time_seconds";
const SAVED = "channeltok-live-history";
const SAVED_VERSION = 1;
const SAVED_LIMIT = 2_000_000; // characters; browsers allow about 5 million for a site

export class History {
  /** When each scrape was made, in seconds since 1970, by the browser's clock. */
  times = /** @type {number[]} */ ([]);
  /** Whether each scrape was answered. */
  answered = /** @type {boolean[]} */ ([]);
  /** When the page saw that the service had restarted. */
  restarts = /** @type {number[]} */ ([]);
  /** Whether several services answer at this address in turn. */
  mixed = false;
  /** @type {Map<string, Series>} */
  #series = new Map();
  /** @type {number | undefined} */
  #start;
  #serverTime = 0;
  #kept;

  /**
   * @param {Record<string, string[]>} kept names of metrics -> the labels to keep them by; series
   *   that differ in other labels are summed
   */
  constructor(kept) {
    this.#kept = kept;
  }

  /** @param {string} name whether samples of this name are kept */
  keeps = (name) => name === START || name in this.#kept;

  /**
   * Add an answered scrape.
   *
   * @param {Sample[]} samples
   * @param {number} now seconds since 1970
   * @param {number} serverTime the same by the service's clock
   */
  record(samples, now, serverTime = now) {
    const scraped = this.#summed(samples);
    const growth = this.#growthSince(startOf(samples), now);
    const at = this.#add(now, true);
    for (const [key, { name, labels, counter, value }] of scraped) {
      let series = this.#series.get(key);
      if (!series) {
        const before = counter ? 0 : null;
        series = { name, labels, counter, last: 0, points: Array(at).fill(before) };
        this.#series.set(key, series);
      }
      if (counter) {
        series.points[at] = (series.points[at - 1] ?? 0) + growth(value, series.last);
        series.last = value;
      } else {
        series.points[at] = value;
      }
    }
    for (const series of this.#series.values()) {
      if (series.points.length === at) {
        series.points.push(series.counter ? series.points[at - 1] : null);
      }
    }
    this.#serverTime = serverTime;
    this.#trim(now);
  }

  /**
   * Add a scrape that was not answered.
   *
   * @param {number} now seconds since 1970
   */
  recordFailure(now) {
    const at = this.#add(now, false);
    for (const { points, counter } of this.#series.values()) {
      points.push(counter ? (points[at - 1] ?? 0) : null);
    }
    this.#trim(now);
  }

  /**
   * The series of a metric, summed by labels; in the order in which they appeared.
   *
   * @param {string} name
   * @param {string[]} by
   * @param {Record<string, string | string[] | undefined>} [where] labels that must have this
   *   value, or one of these values
   * @returns {Group[]}
   */
  sum(name, by, where = {}) {
    const conditions = Object.entries(where).filter(([, wanted]) => wanted !== undefined);
    /** @type {Map<string, Group>} */
    const groups = new Map();
    for (const series of this.#series.values()) {
      if (series.name !== name) continue;
      if (!conditions.every(([label, wanted]) => isOneOf(series.labels[label], wanted))) continue;
      const labels = Object.fromEntries(by.map((label) => [label, series.labels[label] ?? ""]));
      const key = JSON.stringify(labels);
      const group = groups.get(key);
      groups.set(key, {
        labels,
        points: group
          ? group.points.map((value, at) => plus(value, series.points[at]))
          : series.points,
      });
    }
    return [...groups.values()];
  }

  /**
   * Growth per second over RATE_SECONDS before each scrape; null where there is no earlier one.
   *
   * @param {(number | null)[]} totals of a counter
   */
  rate(totals) {
    return this.#differences(totals).map((grown, at) => {
      const from = this.#from(at);
      return grown === null || from === null ? null : grown / (this.times[at] - this.times[from]);
    });
  }

  /**
   * Quotient of what two counters grew by over RATE_SECONDS; null where the second did not.
   *
   * @param {(number | null)[]} totals
   * @param {(number | null)[]} counts
   */
  mean(totals, counts) {
    const counted = this.#differences(counts);
    return this.#differences(totals).map((grown, at) =>
      grown === null || !counted[at] ? null : grown / counted[at],
    );
  }

  /**
   * Quantiles of a histogram over RATE_SECONDS before each scrape, by labels; null where nothing
   * was counted.
   *
   * @param {string} name of the histogram
   * @param {number[]} qs
   * @param {string[]} by
   * @param {Record<string, string | string[] | undefined>} [where]
   * @returns {{labels: Record<string, string>, points: (number | null)[][]}[]} points: of each q
   */
  quantiles(name, qs, by, where = {}) {
    return this.#histograms(name, by, where).map(({ labels, ends, totals }) => {
      const grown = totals.map((points) => this.#differences(points));
      return {
        labels,
        points: qs.map((q) =>
          this.times.map((_, at) => {
            if (grown[0][at] === null) return null;
            const value = histogramQuantile(
              q,
              ends.map((end, bucket) => [end, grown[bucket][at] ?? 0]),
            );
            return Number.isNaN(value) ? null : value;
          }),
        ),
      };
    });
  }

  /**
   * Count and quantiles of a histogram over the whole window, by labels.
   *
   * @param {string} name
   * @param {number[]} qs
   * @param {string[]} by
   * @param {Record<string, string | string[] | undefined>} [where]
   */
  summary(name, qs, by, where = {}) {
    return this.#histograms(name, by, where).map(({ labels, ends, totals }) => {
      /** @type {[number, number][]} */
      const buckets = ends.map((end, bucket) => [end, this.growth(totals[bucket])]);
      return {
        labels,
        count: buckets.length === 0 ? 0 : buckets[buckets.length - 1][1],
        quantiles: qs.map((q) => histogramQuantile(q, buckets)),
      };
    });
  }

  /**
   * What a counter grew by over the whole window.
   *
   * @param {(number | null)[]} totals
   */
  growth(totals) {
    const first = this.answered.indexOf(true);
    return first === -1 ? 0 : (totals[totals.length - 1] ?? 0) - (totals[first] ?? 0);
  }

  /** Write it to sessionStorage, unless it is too large. */
  save() {
    const series = [...this.#series.values()].map(({ name, labels, counter, last, points }) => [
      name, labels, counter, last, counter ? differences(points) : points,
    ]);
    const text = JSON.stringify({
      version: SAVED_VERSION,
      times: this.times,
      answered: this.answered,
      restarts: this.restarts,
      start: this.#start,
      serverTime: this.#serverTime,
      series,
    });
    try {
      if (text.length <= SAVED_LIMIT) sessionStorage.setItem(SAVED, text);
      else sessionStorage.removeItem(SAVED);
    } catch {
      // Full, or forbidden by the browser's settings: the history then begins anew.
    }
  }

  /**
   * Take over what was saved in this tab.
   *
   * @param {number} now seconds since 1970
   */
  restore(now) {
    try {
      const saved = JSON.parse(sessionStorage.getItem(SAVED) ?? "null");
      if (saved?.version !== SAVED_VERSION) return;
      for (const [name, labels, counter, last, points] of saved.series) {
        this.#series.set(keyOf(name, labels), {
          name, labels, counter, last, points: counter ? totalsOf(points) : points,
        });
      }
      this.times = saved.times;
      this.answered = saved.answered;
      this.restarts = saved.restarts;
      this.#start = saved.start;
      this.#serverTime = saved.serverTime;
      this.#trim(now);
    } catch {
      this.clear(); // not written by this version of the page, or there is no storage
    }
  }

  /** Forget everything, here and in sessionStorage. */
  clear() {
    this.times = [];
    this.answered = [];
    this.restarts = [];
    this.mixed = false;
    this.#series.clear();
    this.#start = undefined;
    try {
      sessionStorage.removeItem(SAVED);
    } catch {
      // There is no storage.
    }
  }

  /** @param {Sample[]} samples */
  #summed(samples) {
    /** @type {Map<string, Sample>} */
    const summed = new Map();
    for (const { name, labels, value, counter } of samples) {
      const keep = this.#kept[name];
      if (!keep) continue;
      const kept = Object.fromEntries(
        keep.filter((label) => label in labels).map((label) => [label, labels[label]]),
      );
      const key = keyOf(name, kept);
      const before = summed.get(key);
      summed.set(key, { name, labels: kept, counter, value: (before?.value ?? 0) + value });
    }
    return summed;
  }

  /**
   * How much a counter grew since the last scrape, as a function of its value and the last one.
   *
   * A counter that falls was set to 0. So was every counter of a service that started after the
   * last scrape. A service with another start was not the one we asked before.
   *
   * @param {number | undefined} start of the process that answered
   * @param {number} now
   * @returns {(value: number, last: number) => number}
   */
  #growthSince(start, now) {
    const known = this.#start;
    const first = !this.answered.includes(true);
    this.#start = start;
    if (first) return () => 0;
    if (start !== undefined && known !== undefined && start !== known) {
      if (start < this.#serverTime - CLOCK_SECONDS) {
        this.mixed = true;
        return () => 0;
      }
      this.restarts.push(now);
      return (value) => value;
    }
    return (value, last) => (value < last ? value : value - last);
  }

  /**
   * @param {number} now
   * @param {boolean} answered
   * @returns {number} its index
   */
  #add(now, answered) {
    const last = this.times[this.times.length - 1];
    if (last !== undefined && now - last > BREAK_SECONDS) this.recordFailure(last + 1);
    this.times.push(now);
    this.answered.push(answered);
    return this.times.length - 1;
  }

  /** @param {number} now */
  #trim(now) {
    // A little longer than is shown, so that the first rates shown have something before them.
    const oldest = now - WINDOW_SECONDS - RATE_SECONDS - POLL_SECONDS;
    const count = this.times.filter((time) => time < oldest).length;
    this.restarts = this.restarts.filter((time) => time >= oldest);
    if (count === 0) return;
    for (const list of [this.times, this.answered]) list.splice(0, count);
    for (const { points } of this.#series.values()) points.splice(0, count);
  }

  /**
   * The scrape before `at` that rates are taken from; null where there is none.
   *
   * @param {number} at
   */
  #from(at) {
    if (!this.answered[at]) return null;
    const wanted = this.times[at] - RATE_SECONDS + POLL_SECONDS / 2;
    let from = null;
    for (let before = at - 1; before >= 0; before--) {
      if (!this.answered[before]) continue;
      from = before;
      if (this.times[before] <= wanted) break;
    }
    return from;
  }

  /** @param {(number | null)[]} totals */
  #differences(totals) {
    return totals.map((total, at) => {
      const from = this.#from(at);
      return from === null || total === null ? null : total - (totals[from] ?? 0);
    });
  }

  /**
   * @param {string} name
   * @param {string[]} by
   * @param {Record<string, string | string[] | undefined>} where
   */
  #histograms(name, by, where) {
    /** @typedef {[number, (number | null)[]]} Bucket its upper end, and its totals */
    /** @type {Map<string, {labels: Record<string, string>, buckets: Bucket[]}>} */
    const histograms = new Map();
    for (const { labels, points } of this.sum(`${name}_bucket`, [...by, "le"], where)) {
      const { le, ...others } = labels;
      const key = JSON.stringify(others);
      if (!histograms.has(key)) histograms.set(key, { labels: others, buckets: [] });
      histograms.get(key)?.buckets.push([parseNumber(le), points]);
    }
    return [...histograms.values()].map(({ labels, buckets }) => {
      buckets.sort(([end], [other]) => end - other);
      return {
        labels,
        ends: buckets.map(([end]) => end),
        totals: buckets.map(([, points]) => points),
      };
    });
  }
}

/** @param {Sample[]} samples */
function startOf(samples) {
  // With several workers: of the process that starts and replaces them.
  return samples.find(
    ({ name, labels }) => name === START && (labels.worker ?? "parent") === "parent",
  )?.value;
}

/**
 * @param {string} name
 * @param {Record<string, string>} labels
 */
function keyOf(name, labels) {
  return name + JSON.stringify(labels);
}

/**
 * @param {string} value
 * @param {string | string[] | undefined} wanted
 */
function isOneOf(value, wanted) {
  return Array.isArray(wanted) ? wanted.includes(value) : wanted === value;
}

/**
 * @param {number | null} a
 * @param {number | null} b
 */
function plus(a, b) {
  return a === null || b === null ? (a ?? b) : a + b;
}

/**
 * Mostly zeros, which take little space.
 *
 * @param {(number | null)[]} totals
 */
function differences(totals) {
  return totals.map((total, at) => round((total ?? 0) - (at === 0 ? 0 : (totals[at - 1] ?? 0))));
}

/** @param {number[]} grown */
function totalsOf(grown) {
  let total = 0;
  return grown.map((value) => (total += value));
}

/** @param {number} value to a millionth: sums of seconds have 17 digits otherwise */
function round(value) {
  return Math.round(value * 1e6) / 1e6;
}
