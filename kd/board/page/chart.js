// Draws curves by step as SVG: axes, lines, a readout that follows the pointer
// or the arrow keys.

import {h, s, number} from './dom.js';

const MARGIN = {top: 10, right: 14, bottom: 34, left: 58};
const HEIGHT = 230;

/** Returns round numbers from low to high, about as many as asked for. */
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((x) => x * power >= 0.75 * rough) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const places = [];
  for (let i = first; i <= last; i += 1) places.push(Number((i * step).toPrecision(12)));
  return places;
}

function logTicks(low, high) {
  const places = [];
  for (let e = Math.floor(low); e <= Math.ceil(high); e += 1) {
    for (const m of high - low < 2 ? [1, 2, 5] : [1]) {
      const x = e + Math.log10(m);
      if (x >= low - 1e-9 && x <= high + 1e-9) places.push(x);
    }
  }
  return places;
}

/** Returns the least and the greatest of values, which may be very many. */
export function range(values) {
  return values.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
}

/** Returns values averaged exponentially, corrected for their beginning. */
export function smooth(values, factor) {
  if (!factor) return values;
  let mean = 0, weight = 0;
  return values.map((x) => {
    if (!Number.isFinite(x)) return x;
    mean = factor * mean + (1 - factor) * x;
    weight = factor * weight + (1 - factor);
    return mean / weight;
  });
}

/** One panel of curves. */
export class Chart {
  /** @param title The metric, which is the panel's heading. */
  constructor(title) {
    this.series = [];
    this.at = null;
    this.svg = s('svg', {role: 'img', tabindex: '0', height: HEIGHT});
    this.readout = h('div', {class: 'readout', role: 'status'});
    this.legend = h('ul', {class: 'legend'});
    this.element = h('figure', {class: 'chart'},
      h('figcaption', {}, title), this.svg, this.readout, this.legend);
    this.title = title;
    this.svg.addEventListener('pointermove', (e) => this.point(e));
    this.svg.addEventListener('pointerleave', () => this.show(null));
    this.svg.addEventListener('blur', () => this.show(null));
    this.svg.addEventListener('keydown', (e) => this.key(e));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /**
   * @param series By curve: name, color, dashes, faint, steps, values.
   * @param options log: whether the axis is logarithmic; smoothing: 0 to 1.
   */
  set(series, options) {
    this.series = series.map((x) => {
      const values = x.values.map(Number);
      return {...x, values, drawn: smooth(values, options.smoothing)};
    });
    this.log = options.log;
    this.draw();
  }

  scales(width) {
    const xs = this.series.flatMap((x) => x.steps);
    let ys = this.series.flatMap((x) => x.drawn).filter(Number.isFinite);
    this.isLog = this.log && ys.some((y) => y > 0);
    if (this.isLog) ys = ys.filter((y) => y > 0).map(Math.log10);
    const [x0, x1] = range(xs);
    let [y0, y1] = range(ys);
    if (!ys.length) { y0 = 0; y1 = 1; }
    const pad = (y1 - y0) * 0.06 || Math.abs(y0) * 0.1 || 1;
    y0 -= pad; y1 += pad;
    const inner = width - MARGIN.left - MARGIN.right;
    const tall = HEIGHT - MARGIN.top - MARGIN.bottom;
    this.x = (step) => MARGIN.left + (x1 > x0 ? (step - x0) / (x1 - x0) : 0.5) * inner;
    this.y = (v) => {
      const u = this.isLog ? Math.log10(v) : v;
      return MARGIN.top + (1 - (u - y0) / (y1 - y0)) * tall;
    };
    return {x0, x1, y0, y1, inner};
  }

  draw() {
    const width = Math.floor(this.svg.getBoundingClientRect().width);
    if (!width) return;
    this.svg.replaceChildren();
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute('aria-label', this.describe());
    const some = this.series.some((x) => x.steps.length);
    if (!some) {
      this.svg.append(s('text', {x: width / 2, y: HEIGHT / 2, class: 'none',
                                 'text-anchor': 'middle'}, 'no values yet'));
      this.legend.replaceChildren();
      return;
    }
    this.drawAxes(width, this.scales(width));
    for (const one of this.series) this.drawSeries(one);
    this.cursor = s('line', {class: 'cursor', y1: MARGIN.top,
                             y2: HEIGHT - MARGIN.bottom, visibility: 'hidden'});
    this.svg.append(this.cursor);
    this.drawLegend();
    if (this.at !== null) this.show(this.at);
  }

  drawAxes(width, {x0, x1, y0, y1, inner}) {
    const bottom = HEIGHT - MARGIN.bottom;
    const ys = this.isLog ? logTicks(y0, y1) : ticks(y0, y1, 4);
    for (const t of ys) {
      const y = this.y(this.isLog ? 10 ** t : t);
      this.svg.append(
        s('line', {class: 'grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y}),
        s('text', {class: 'tick', x: MARGIN.left - 8, y: y + 4, 'text-anchor': 'end'},
          number(this.isLog ? 10 ** t : t, 3)));
    }
    for (const t of ticks(x0, x1, Math.max(2, Math.floor(inner / 80)))) {
      this.svg.append(
        s('line', {class: 'mark', x1: this.x(t), x2: this.x(t), y1: bottom, y2: bottom + 4}),
        s('text', {class: 'tick', x: this.x(t), y: bottom + 17, 'text-anchor': 'middle'},
          number(t)));
    }
    this.svg.append(
      s('line', {class: 'axis', x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom}),
      s('text', {class: 'label', x: width - MARGIN.right, y: HEIGHT - 3, 'text-anchor': 'end'}, 'step'));
  }

  drawSeries(one) {
    let path = '', pen = false;
    one.steps.forEach((step, i) => {
      const v = one.drawn[i];
      const there = Number.isFinite(v) && (!this.isLog || v > 0);
      if (there) path += `${pen ? 'L' : 'M'}${this.x(step).toFixed(1)} ${this.y(v).toFixed(1)}`;
      pen = there;
    });
    const style = {stroke: one.color};
    this.svg.append(s('path', {class: one.faint ? 'curve faint' : 'curve', d: path,
                               style, 'stroke-dasharray': one.dashes || null}));
    if (one.steps.length <= 12) {
      one.steps.forEach((step, i) => {
        const v = one.drawn[i];
        if (!Number.isFinite(v) || (this.isLog && v <= 0)) return;
        this.svg.append(s('circle', {class: one.faint ? 'dot faint' : 'dot', r: one.faint ? 2 : 2.8,
                                     cx: this.x(step), cy: this.y(v), style: {fill: one.color}}));
      });
    }
  }

  drawLegend() {
    // Baselines have the color of their run, and a thin line.
    const most = 6, named = this.series.filter((x) => !x.faint || this.series.length === 2);
    const shown = named.slice(0, most);
    this.legend.replaceChildren(...(named.length < 2 ? [] : shown.map((one) =>
      h('li', {}, swatch(one), h('span', {class: 'name', title: one.name}, one.name)))),
      ...(named.length > most ? [h('li', {}, `+${named.length - most} more`)] : []));
  }

  describe() {
    const parts = this.series.slice(0, 8).map((x) =>
      `${x.name} ${number(x.values[x.values.length - 1])}`);
    return `${this.title} by step; last values: ${parts.join(', ') || 'none'}. ` +
      'Arrow keys move along the steps.';
  }

  steps() {
    return [...new Set(this.series.flatMap((x) => x.steps))].sort((a, b) => a - b);
  }

  point(event) {
    if (!this.cursor) return;
    const box = this.svg.getBoundingClientRect();
    const x = event.clientX - box.left;
    const steps = this.steps();
    if (!steps.length) return;
    this.show(steps.reduce((a, b) =>
      Math.abs(this.x(b) - x) < Math.abs(this.x(a) - x) ? b : a));
  }

  key(event) {
    const steps = this.steps();
    if (!steps.length) return;
    const at = this.at === null ? steps.length - 1 : steps.indexOf(this.at);
    const moves = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1};
    if (event.key === 'Escape') { this.show(null); return; }
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = this.at === null && event.key.startsWith('Arrow') ? at : moves[event.key];
    this.show(steps[Math.min(steps.length - 1, Math.max(0, to))]);
  }

  /** Shows the values at a step; null hides them. */
  show(step) {
    this.at = step;
    if (!this.cursor) return;
    this.cursor.setAttribute('visibility', step === null ? 'hidden' : 'visible');
    this.readout.replaceChildren();
    if (step === null) return;
    this.cursor.setAttribute('x1', this.x(step));
    this.cursor.setAttribute('x2', this.x(step));
    const values = this.series.flatMap((one) => {
      const i = one.steps.lastIndexOf(step);
      return i < 0 ? [] : [h('span', {class: 'item'}, swatch(one),
        h('b', {}, number(one.values[i], 5)))];
    }).slice(0, 8);
    this.readout.append(h('span', {class: 'item'}, `step ${number(step)}`), ...values);
  }
}

/** Returns the line that stands for a curve. */
export function swatch(one) {
  return s('svg', {class: 'swatch', width: 22, height: 10, 'aria-hidden': 'true'},
    s('line', {x1: 1, x2: 21, y1: 5, y2: 5, style: {stroke: one.color},
               'stroke-width': one.faint ? 1.4 : 2.6,
               'stroke-dasharray': one.dashes || null}));
}
