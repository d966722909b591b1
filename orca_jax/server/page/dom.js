// The few words of the DOM that this page needs. Whatever comes from the server goes through textContent.

export const byId = (id) => document.getElementById(id);

/** A new element: `make("li", { className: "chosen" }, "text", otherElement)`. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Set an element's text, and only when it differs, so that nothing is announced or painted twice. */
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fit a canvas to its box and give a context in CSS pixels, cleared. */
export function sheet(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

/** The theme's colours by name, read again when the theme changes. */
export const colours = {};
const NAMES = ["ink", "faint", "line", "grid", "panel", "accent", "initiation", "chunk", "increment", "waiting", "rate", "pick"];

export function watchTheme(redraw) {
  const read = () => {
    const style = getComputedStyle(document.documentElement);
    for (const name of NAMES) colours[name] = style.getPropertyValue(`--${name}`).trim();
  };
  read();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { read(); redraw(); });
}
