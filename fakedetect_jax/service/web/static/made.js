// Elements, and numbers as text. Names of files only ever become text nodes.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, facts = {}, ...inside) {
  return fill(document.createElement(tag), facts, inside);
}

export function draw(tag, facts = {}, ...inside) {
  return fill(document.createElementNS(SVG, tag), facts, inside);
}

function fill(element, facts, inside) {
  for (const [name, value] of Object.entries(facts)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...inside.filter((part) => part !== null && part !== undefined));
  return element;
}

// 73.4 -> "1:13"; with tenths where pieces are closer together than a second.
export function clock(seconds, fine = false) {
  if (fine) {
    const tenths = Math.round(10 * Math.max(seconds, 0));
    return `${clock(Math.floor(tenths / 10))}.${tenths % 10}`;
  }
  const whole = Math.max(Math.floor(seconds), 0);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export const percent = (value) => `${(100 * value).toFixed(1)}\u202f%`;

// A chance as the page says it: calibrated ones are probabilities, others are not.
export const chance = (value, calibrated) => (calibrated ? percent(value) : value.toFixed(3));

export const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

export function size(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let number = bytes;
  let unit = 0;
  while (number >= 1024 && unit < 3) { number /= 1024; unit += 1; }
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}
