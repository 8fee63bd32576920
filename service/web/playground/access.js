// The field for a bearer token, which appears when the service asks for one.

import { useToken } from "./api.js";
import { byId, write } from "../shared/dom.js";

/**
 * Ask for a token; resolves when the user has given one.
 * @param {string} detail what the service said
 * @returns {Promise<void>}
 */
export function askForToken(detail) {
  const form = byId("access", HTMLFormElement);
  const field = byId("access-token", HTMLInputElement);
  write("access-detail", detail);
  form.hidden = false;
  field.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      useToken(field.value.trim());
      field.value = "";
      form.hidden = true;
      resolve();
    };
  });
}
