// Files that are chosen, dropped or pasted.

import { byId } from "../shared/dom.js";

/** @param {(file: File) => void} open */
export function setUpInput(open) {
  const field = byId("file", HTMLInputElement);
  field.addEventListener("change", () => {
    if (field.files?.[0]) open(field.files[0]);
    field.value = ""; // the same file may be chosen again
  });

  addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) open(file);
  });

  const curtain = byId("drop", HTMLElement);
  /** @param {DragEvent} event */
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragenter", (event) => {
    if (hasFiles(event)) curtain.hidden = false;
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  curtain.addEventListener("dragleave", () => { curtain.hidden = true; });
  addEventListener("drop", (event) => {
    curtain.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    const file = event.dataTransfer?.files[0];
    if (file) open(file);
  });
}
