// Between files, pixels and canvases.

/**
 * The pixels of an image file, opaque.
 * @param {Blob} file
 * @param {number} [width] to scale to
 * @param {number} [height]
 * @returns {Promise<ImageData>}
 */
export async function pixelsOf(file, width, height) {
  const bitmap = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(width ?? bitmap.width, height ?? bitmap.height);
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** @param {HTMLCanvasElement} canvas @param {ImageData} pixels */
export function draw(canvas, pixels) {
  if (canvas.width !== pixels.width) canvas.width = pixels.width;
  if (canvas.height !== pixels.height) canvas.height = pixels.height;
  const context = canvas.getContext("2d");
  if (context) context.putImageData(pixels, 0, 0);
}

/** @param {OffscreenCanvas} canvas */
export function context2d(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser has no canvas to draw on");
  return context;
}
