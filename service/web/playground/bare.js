// Image files without what does not belong to the image: browsers add a colour profile of some 450
// bytes to each, which would count against the codecs.

/**
 * The same image, without metadata; only for what canvases write.
 * @param {Blob} file
 * @returns {Promise<Blob>}
 */
export async function bare(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (file.type === "image/webp") return new Blob(bareWebp(bytes), { type: file.type });
  if (file.type === "image/jpeg") return new Blob(bareJpeg(bytes), { type: file.type });
  return file;
}

/**
 * Only the chunk of pixels, with a header of its own (RFC 9649).
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
function bareWebp(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length;) {
    const name = String.fromCharCode(...bytes.subarray(at, at + 4));
    const length = view.getUint32(at + 4, true);
    const end = at + 8 + length + (length % 2);
    if (name === "VP8 ") {
      const header = new Uint8Array(12);
      header.set(bytes.subarray(0, 12));
      new DataView(header.buffer).setUint32(4, 4 + end - at, true);
      return [header, bytes.subarray(at, end)];
    }
    at = end;
  }
  return [bytes];
}

/**
 * All segments but APP1 to APP15 and comments (ITU-T T.81); APP0 is what makes it a JFIF file.
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
function bareJpeg(bytes) {
  const view = new DataView(bytes.buffer);
  const kept = [bytes.subarray(0, 2)];
  for (let at = 2; at + 4 <= bytes.length;) {
    const marker = view.getUint8(at + 1);
    if (marker === 0xda) { // the scan, up to the end
      kept.push(bytes.subarray(at));
      break;
    }
    const end = at + 2 + view.getUint16(at + 2);
    if (!(marker > 0xe0 && marker <= 0xef) && marker !== 0xfe) kept.push(bytes.subarray(at, end));
    at = end;
  }
  return kept;
}
