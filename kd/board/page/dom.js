// Makes elements; reads the board's JSON; formats numbers and times.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') {
      for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    } else element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child);
    }
  }
  return element;
}

/** Returns an HTML element; texts among the children stay texts. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Returns an SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Returns the JSON of a path of the board; lists become repeated names. */
export async function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const item of [value].flat()) query.append(name, item);
  }
  const response = await fetch(`${path}?${query}`);
  const value = await response.json();
  if (!response.ok) throw new Error(value.error || response.statusText);
  return value;
}

/** Returns a number in a few digits; texts such as NaN as they are. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return '–';
  if (typeof value !== 'number') return String(value);
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString('en');
  if (size >= 1e6 || size < 1e-3) {
    return value.toExponential(2).replace('e+', 'e').replace(/\.?0+e/, 'e');
  }
  return String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  if (typeof value !== 'number') return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${number(value, 3)} ${units[unit]}`;
}

export function age(seconds) {
  for (const [unit, size] of [['d', 86400], ['h', 3600], ['m', 60]]) {
    if (seconds >= size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

const SHAPES = {
  running: '▶', finished: '✓', failed: '✕', preempted: '⏸', stopped: '■',
};

/** Returns the mark of a status: a shape and a word, not a color alone. */
export function status(name, why) {
  return h('span', {class: `status ${name}`, title: why || name},
    h('span', {'aria-hidden': 'true'}, SHAPES[name] || '?'), name);
}

export function problem(text) {
  return h('p', {class: 'problem', role: 'alert'}, text);
}

/** Returns a table that scrolls within its box. */
export function table(head, rows, attributes = {}) {
  return h('div', {class: 'scroll', tabindex: '0', role: 'region',
                   'aria-label': attributes.label || 'table'},
    h('table', {class: attributes.class},
      h('thead', {}, h('tr', {}, head.map((cell) => h('th', {scope: 'col'}, cell)))),
      h('tbody', {}, rows.map((row) => h('tr', {}, row.map((cell, i) => i === 0
        ? h('th', {scope: 'row'}, cell)
        : h('td', {}, cell)))))));
}

export function value(x) {
  return typeof x === 'string' ? x : JSON.stringify(x);
}
