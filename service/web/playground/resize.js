// What the tokenizer sees of an image: imaging/image_file.py and imaging/resize.py in the browser.
// A box filter by the largest whole factor, then bicubic with antialiasing, both as Pillow has them.

/** @import { View } from "./api.js" */
/** @typedef {{ data: Uint8ClampedArray, width: number, height: number }} Pixels RGBA */

const MAX_PIXELS = 16e6; // of a canvas, on small devices
const BICUBIC = 2; // pixels around the centre that count

/**
 * The part in `view`, as the tokenizer sees it; without the bands of fit=pad.
 * @param {Blob} image
 * @param {View} view
 * @param {number} size side of the tokenizer's square
 * @returns {Promise<ImageData>}
 */
export async function seenBy(image, view, size) {
  const bitmap = await createImageBitmap(image);
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  const canvas = new OffscreenCanvas(
    Math.round(bitmap.width * scale), Math.round(bitmap.height * scale),
  );
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser has no canvas to draw on");
  context.fillStyle = "#fff"; // transparent pixels lie on white, as in the service
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const box = [view.left, view.top, view.right, view.bottom].map((edge) => edge * scale);
  const longer = Math.max(box[2] - box[0], box[3] - box[1]);
  const side = (/** @type {number} */ length) => Math.max(1, round((length * size) / longer));
  return resize(pixels, box, side(box[2] - box[0]), side(box[3] - box[1]));
}

/** As Python rounds: half to even. @param {number} value */
function round(value) {
  const whole = Math.round(value);
  return whole - value === 0.5 && whole % 2 ? whole - 1 : whole;
}

/**
 * Resize the part of an opaque image in `box`.
 * @param {Pixels} image
 * @param {number[]} box left, top, right, bottom
 * @param {number} width
 * @param {number} height
 * @returns {ImageData}
 */
export function resize(image, box, width, height) {
  const factor = Math.max(
    1, Math.floor(Math.min((box[2] - box[0]) / width, (box[3] - box[1]) / height)),
  );
  const reduced = factor > 1 ? reduce(image, factor) : image;
  const [left, top, right, bottom] = box.map((edge) => edge / factor);
  const across = resample(reduced, left, Math.min(right, reduced.width), width, 4, reduced.height,
    4 * reduced.width, 4 * width);
  const wide = { data: across, width, height: reduced.height };
  const down = resample(wide, top, Math.min(bottom, reduced.height), height, 4 * width, width, 4, 4);
  return new ImageData(down, width, height);
}

/**
 * Means of squares of factor x factor pixels; the last may be narrower.
 * @param {Pixels} image
 * @param {number} factor
 * @returns {Pixels}
 */
function reduce({ data, width, height }, factor) {
  const columns = Math.ceil(width / factor);
  const rows = Math.ceil(height / factor);
  const means = new Uint8ClampedArray(4 * columns * rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [right, bottom] = [
        Math.min(width, (column + 1) * factor), Math.min(height, (row + 1) * factor),
      ];
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let y = row * factor; y < bottom; y++) {
        for (let x = column * factor; x < right; x++) {
          const at = 4 * (y * width + x);
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
        }
      }
      const count = (right - column * factor) * (bottom - row * factor);
      means.set(
        [red, green, blue].map((sum) => Math.floor(sum / count + 0.5)).concat(255),
        4 * (row * columns + column),
      );
    }
  }
  return { data: means, width: columns, height: rows };
}

/** @param {number} x */
function cubic(x) {
  const distance = Math.abs(x);
  if (distance < 1) return (1.5 * distance - 2.5) * distance * distance + 1;
  if (distance < 2) return ((-0.5 * distance + 2.5) * distance - 4) * distance + 2;
  return 0;
}

/**
 * One direction of the bicubic filter. Steps are distances within the arrays.
 * @param {Pixels} image
 * @param {number} from first edge, in pixels
 * @param {number} to last edge
 * @param {number} size number of pixels to make
 * @param {number} step from a pixel to the next in this direction
 * @param {number} lines number of lines in the other direction
 * @param {number} lineStep from a line to the next in the image
 * @param {number} madeLineStep the same in the result
 */
function resample({ data, width, height }, from, to, size, step, lines, lineStep, madeLineStep) {
  const limit = step === 4 ? width : height;
  const made = new Uint8ClampedArray(4 * size * lines);
  const madeStep = step === 4 ? 4 : 4 * lines;
  const scale = (to - from) / size;
  const stretch = Math.max(1, scale);
  for (let index = 0; index < size; index++) {
    const centre = from + (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - BICUBIC * stretch + 0.5));
    const end = Math.min(limit, Math.trunc(centre + BICUBIC * stretch + 0.5));
    const weights = [];
    for (let at = first; at < end; at++) weights.push(cubic((at - centre + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    for (let line = 0; line < lines; line++) {
      const start = line * lineStep + first * step;
      const target = line * madeLineStep + index * madeStep;
      for (let colour = 0; colour < 3; colour++) {
        let value = 0;
        for (let at = 0; at < weights.length; at++) {
          value += weights[at] * data[start + at * step + colour];
        }
        made[target + colour] = Math.floor(value / sum + 0.5);
      }
      made[target + 3] = 255;
    }
  }
  return made;
}
