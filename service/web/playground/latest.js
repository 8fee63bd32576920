/**
 * A function that runs `work` once at a time. Of the calls that come meanwhile only the last is
 * done, so what follows a slider is as fast as the service answers, and never behind.
 * @template T
 * @param {(argument: T) => Promise<void>} work
 * @returns {(argument: T) => Promise<void>}
 */
export function latest(work) {
  /** @type {{ argument: T } | null} */
  let waiting = null;
  let busy = false;
  return async (argument) => {
    waiting = { argument };
    if (busy) return;
    busy = true;
    try {
      while (waiting) {
        const next = waiting;
        waiting = null;
        try {
          await work(next.argument);
        } catch (error) {
          if (!waiting) throw error; // else nobody wants this one any longer
        }
      }
    } finally {
      busy = false;
    }
  };
}
