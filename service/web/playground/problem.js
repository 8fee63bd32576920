// Errors, as the service words them.

import { ServiceError } from "./api.js";
import { byId, write } from "../shared/dom.js";

/** @param {unknown} error */
export function showProblem(error) {
  if (error instanceof DOMException && error.name === "AbortError") return;
  const title = error instanceof ServiceError ? error.title : "Something went wrong";
  const detail = error instanceof Error ? error.message : String(error);
  write("problem-title", `${title}.`);
  write("problem-detail", detail);
  byId("problem", HTMLElement).hidden = false;
}

export function hideProblem() {
  byId("problem", HTMLElement).hidden = true;
}

export function setUpProblems() {
  byId("problem-close", HTMLButtonElement).addEventListener("click", hideProblem);
}
