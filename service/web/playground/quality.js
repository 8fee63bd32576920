// PSNR and SSIM, by the formulas of imaging/similarity.py and
// client/channeltok/local/image_quality.py.

const RADIUS = 5; // of the Gaussian window: 11 pixels
const SIGMA = 1.5;
const C1 = (0.01 * 255) ** 2;
const C2 = (0.03 * 255) ** 2;
const KERNEL = gaussian();

function gaussian() {
  const weights = [];
  for (let at = -RADIUS; at <= RADIUS; at++) weights.push(Math.exp((-0.5 * at * at) / SIGMA ** 2));
  const sum = weights.reduce((total, weight) => total + weight);
  return Float64Array.from(weights, (weight) => weight / sum);
}

/**
 * Peak signal-to-noise ratio in dB over the three colours. Equal images have 108.1 dB.
 * @param {ImageData} a
 * @param {ImageData} b of the same size
 */
export function psnr(a, b) {
  let sum = 0;
  for (let at = 0; at < a.data.length; at += 4) {
    for (let colour = 0; colour < 3; colour++) {
      sum += (a.data[at + colour] - b.data[at + colour]) ** 2;
    }
  }
  return 10 * Math.log10(255 ** 2 / Math.max(sum / (3 * a.width * a.height), 1e-6));
}

/**
 * Structural similarity (Wang et al. 2004), mean over the colours and all whole windows; null for
 * images that are smaller than a window.
 * @param {ImageData} a
 * @param {ImageData} b of the same size
 * @returns {number | null}
 */
export function ssim(a, b) {
  const { width, height } = a;
  const inner = (width - 2 * RADIUS) * (height - 2 * RADIUS);
  if (width <= 2 * RADIUS || height <= 2 * RADIUS) return null;
  let total = 0;
  for (let colour = 0; colour < 3; colour++) {
    const x = new Float64Array(width * height);
    const y = new Float64Array(width * height);
    for (let at = 0; at < x.length; at++) {
      x[at] = a.data[4 * at + colour];
      y[at] = b.data[4 * at + colour];
    }
    const [ux, uy, uxx, uyy, uxy] = [
      x, y, product(x, x), product(y, y), product(x, y),
    ].map((values) => blur(values, width, height));
    for (let at = 0; at < inner; at++) {
      const [mx, my] = [ux[at], uy[at]];
      const [vx, vy, vxy] = [uxx[at] - mx * mx, uyy[at] - my * my, uxy[at] - mx * my];
      total += ((2 * mx * my + C1) * (2 * vxy + C2))
        / ((mx * mx + my * my + C1) * (vx + vy + C2));
    }
  }
  return total / (3 * inner);
}

/** @param {Float64Array} a @param {Float64Array} b */
function product(a, b) {
  return a.map((value, at) => value * b[at]);
}

/**
 * Gaussian means of all whole windows: (width - 10) x (height - 10).
 * @param {Float64Array} values
 * @param {number} width
 * @param {number} height
 */
function blur(values, width, height) {
  const columns = width - 2 * RADIUS;
  const rows = height - 2 * RADIUS;
  const across = new Float64Array(columns * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < columns; x++) {
      let sum = 0;
      for (let at = 0; at < KERNEL.length; at++) sum += KERNEL[at] * values[y * width + x + at];
      across[y * columns + x] = sum;
    }
  }
  const blurred = new Float64Array(columns * rows);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      let sum = 0;
      for (let at = 0; at < KERNEL.length; at++) sum += KERNEL[at] * across[(y + at) * columns + x];
      blurred[y * columns + x] = sum;
    }
  }
  return blurred;
}
