// Small helpers around the document.

/**
 * The element with this id, of this type. Throws where the page has none.
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

/** @param {string} id @param {string} text */
export function write(id, text) {
  const element = byId(id, HTMLElement);
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A new element with properties and children.
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Partial<HTMLElementTagNameMap[Name]>} properties
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/**
 * The radio buttons of a name: calls back with the value that is chosen.
 * @param {string} name
 * @param {(value: string) => void} onChange
 * @returns {(value: string) => void} chooses a value
 */
export function radios(name, onChange) {
  const buttons = [...document.querySelectorAll(`input[type=radio][name="${name}"]`)]
    .filter((one) => one instanceof HTMLInputElement);
  for (const button of buttons) button.addEventListener("change", () => onChange(button.value));
  return (value) => {
    for (const button of buttons) button.checked = button.value === value;
  };
}

/**
 * Show how far a slider is: Chromium and Safari do not fill the track by themselves.
 * @param {HTMLInputElement} slider
 */
export function fillTrack(slider) {
  const [low, high] = [Number(slider.min), Number(slider.max)];
  const share = high > low ? (slider.valueAsNumber - low) / (high - low) : 0;
  slider.style.setProperty("--fill", `calc(11px + ${share} * (100% - 22px))`);
}

/**
 * A function that runs once calls have paused for some milliseconds.
 * @param {() => void} work
 * @param {number} milliseconds
 */
export function afterPause(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

/**
 * Give a file to the user.
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Copy text, also where the clipboard is closed to pages that came by plain HTTP.
 * @param {string} text
 */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, className: "away" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
