// The images that come with the page.

export const SAMPLES = ["cat", "coffee", "rocket"];

/** @param {string} name @returns {Promise<Blob>} */
export async function sampleFile(name) {
  return (await fetch(`playground/samples/${name}.webp`)).blob();
}
