/** Quantiles of histograms, as Prometheus's histogram_quantile estimates them. */

/**
 * The q-quantile of what a histogram counted; NaN when it counted nothing.
 *
 * Values are taken to be spread evenly within their bucket. A quantile in the last bucket, which
 * has no upper end, is the lower end of that bucket.
 *
 * @param {number} q 0 to 1
 * @param {[number, number][]} buckets upper end, and the count of values up to it: cumulative,
 *   in ascending order, the last one with the end Infinity
 * @returns {number}
 */
export function histogramQuantile(q, buckets) {
  if (buckets.length < 2 || buckets[buckets.length - 1][0] !== Infinity) return NaN;
  // Counts that were read at slightly different times may fall from one bucket to the next.
  let highest = 0;
  const counts = buckets.map(([, count]) => (highest = Math.max(highest, count)));
  const total = counts[counts.length - 1];
  if (total === 0) return NaN;
  const rank = q * total;
  const index = counts.findIndex((count) => count >= rank);
  if (index === buckets.length - 1) return buckets[index - 1][0];
  const end = buckets[index][0];
  if (index === 0 && end <= 0) return end;
  const start = index === 0 ? 0 : buckets[index - 1][0];
  const below = index === 0 ? 0 : counts[index - 1];
  return start + (end - start) * ((rank - below) / (counts[index] - below));
}
