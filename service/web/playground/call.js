// The section that shows the same call as text.

import { grpcPort, hasToken } from "./api.js";
import { byId, copy, radios, write } from "../shared/dom.js";
import { generateParameters, goOnFrom } from "./generate.js";
import { encodeSnippet, generateSnippet } from "./snippets.js";
import { onChange, state } from "./state.js";
/** @import { Call, Language } from "./snippets.js" */

/** @type {Language} */
let language = "python";
let port = 50051;

export async function setUpCall() {
  radios("language", (value) => {
    language = /** @type {Language} */ (value);
    showCall();
  });
  byId("call-kind", HTMLSelectElement).addEventListener("change", showCall);
  byId("generate-form", HTMLFormElement).addEventListener("input", showCall);
  const button = byId("copy", HTMLButtonElement);
  button.addEventListener("click", async () => {
    await copy(byId("snippet", HTMLElement).textContent ?? "");
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  onChange(showCall);
  port = await grpcPort();
  showCall();
}

function showCall() {
  const kind = byId("call-kind", HTMLSelectElement).value;
  const call = current();
  write("snippet", kind === "generate"
    ? generateSnippet(language, call, generateParameters(), goOnFrom())
    : encodeSnippet(language, call));
}

/** @returns {Call} */
function current() {
  const { source, k, target, fit, tokenizer, tokenizers, picture } = state;
  const tokensOnly = picture !== null && !source?.file;
  const name = source?.name ?? "image.jpg";
  // Other letters would mean something to a shell.
  const file = /^\w[\w.-]*$/.test(name) ? name : `image${/\.\w+$/.exec(name)?.[0] ?? ""}`;
  return {
    rest: new URL(".", location.href).href.replace(/\/$/, ""),
    grpc: `${location.hostname}:${port}`,
    tls: location.protocol === "https:",
    token: hasToken(),
    file: tokensOnly && !file.endsWith(".ctok") ? `${file}.ctok` : file,
    sample: Boolean(source?.sample),
    tokensOnly,
    k,
    target,
    fit,
    tokenizer: tokenizer && tokenizer !== tokenizers[0] ? tokenizer.name : null,
  };
}
