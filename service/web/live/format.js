/** Numbers as people read them. */

/** @typedef {"perSecond" | "seconds" | "bytes" | "count" | "share"} Unit */

/**
 * @param {number | null | undefined} value
 * @param {Unit} unit
 */
export function format(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  switch (unit) {
    case "perSecond":
      return `${short(value)}/s`;
    case "seconds":
      return value < 1 ? `${short(value * 1000)} ms` : `${short(value)} s`;
    case "bytes":
      return bytes(value);
    case "share":
      return `${short(value * 100)} %`;
    case "count":
      return short(value);
  }
}

/** @param {number} time seconds since 1970 */
export function clock(time, seconds = true) {
  return new Date(time * 1000).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    ...(seconds && { second: "2-digit" }),
    hourCycle: "h23",
  });
}

/** @param {number} value its first three digits, or all of them before the point */
function short(value) {
  const digits = value >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 };
  return value.toLocaleString("en", digits);
}

/** @param {number} value */
function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${short(value)} ${units[power]}`;
}
