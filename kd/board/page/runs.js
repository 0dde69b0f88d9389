// The page of all runs: a table with filters, and curves of the chosen ones.

import {Chart, swatch} from './chart.js';
import * as colors from './colors.js';
import {age, get, h, number, problem, status, table, value} from './dom.js';

const FIRST = 4;  // Runs whose curves are shown at the beginning.
const PAGE = 60;  // Rows of the table before "show all".
const state = {
  query: {}, chosen: null, extra: [], log: false, smoothing: 0, all: false, baselines: true,
};

/** Returns the metrics that are worth a panel, the most telling first. */
function usual(metrics) {
  const named = metrics.filter((m) => !m.startsWith('baseline.'));
  const order = [/^eval\/[^/]+\/nll$/, /^eval\/[^/]+\/kl$/, /^eval\/[^/]+\/exact_match$/,
                 /^train\/loss$/, /^train\/grad_norm$/, /^train\/lr$/];
  return order.flatMap((pattern) => named.filter((m) => pattern.test(m)).slice(0, 2)).slice(0, 8);
}

/** Returns a run's name, its folder smaller above it. */
function named(run) {
  const cut = run.lastIndexOf('/') + 1;
  return [cut ? h('small', {}, run.slice(0, cut)) : null, h('span', {}, run.slice(cut))].filter(Boolean);
}

class Runs {
  constructor() {
    this.charts = new Map();
    this.title = 'Runs';
    this.version = '';
    this.list = h('div', {class: 'list'});
    this.count = h('p', {class: 'muted', role: 'status'});
    this.message = h('div', {});
    this.panels = h('div', {class: 'panels'});
    this.differences = h('section', {class: 'differences'});
    this.form = this.makeForm();
    this.tools = this.makeTools();
    this.element = h('div', {class: 'runs'},
      h('section', {class: 'side', 'aria-label': 'Runs'}, this.form, this.message, this.count, this.list),
      h('section', {class: 'curves', 'aria-label': 'Curves'}, this.tools, this.panels, this.differences));
  }

  makeForm() {
    this.where = h('input', {id: 'where', name: 'where', spellcheck: 'false', autocomplete: 'off',
                             placeholder: 'config.optimizer.lr.peak > 1e-4'});
    this.metric = h('select', {id: 'metric', name: 'metric'});
    this.sort = h('select', {id: 'sort', name: 'sort'},
      [['age_s', 'latest first'], ['best', 'best, ascending'], ['-best', 'best, descending'], ['run', 'name'],
       ['status', 'status'], ['-step', 'step']].map(([v, t]) => h('option', {value: v}, t)));
    for (const control of [this.metric, this.sort]) {
      control.addEventListener('change', () => this.submit());
    }
    return h('form', {onsubmit: (e) => { e.preventDefault(); this.submit(); }},
      h('label', {class: 'wide', for: 'where'}, 'Where', this.where),
      h('label', {for: 'metric'}, 'Best by', this.metric),
      h('label', {for: 'sort'}, 'Sort', this.sort),
      h('button', {type: 'submit', class: 'visually-hidden'}, 'Apply'));
  }

  makeTools() {
    this.add = h('select', {id: 'add', onchange: () => {
      if (this.add.value) state.extra.push(this.add.value);
      this.drawCurves();
    }});
    const log = h('input', {type: 'checkbox', id: 'log', onchange: (e) => {
      state.log = e.target.checked; this.setSeries();
    }});
    log.checked = state.log;
    const base = h('input', {type: 'checkbox', id: 'baselines', onchange: (e) => {
      state.baselines = e.target.checked; this.setSeries();
    }});
    base.checked = state.baselines;
    const smoothing = h('input', {type: 'range', id: 'smoothing', min: 0, max: 0.95, step: 0.05,
                                  value: state.smoothing, oninput: (e) => {
      state.smoothing = Number(e.target.value); this.setSeries();
    }});
    return h('div', {class: 'tools'},
      h('label', {for: 'add'}, 'Add a metric', this.add),
      h('label', {class: 'inline', for: 'log'}, log, 'logarithmic'),
      h('label', {class: 'inline', for: 'baselines'}, base, 'baselines, thin'),
      h('label', {class: 'inline', for: 'smoothing'}, 'smoothing', smoothing));
  }

  submit() {
    state.query = {where: this.where.value, metric: this.metric.value, sort: this.sort.value};
    this.version = '';
    return this.update().catch((error) => this.message.replaceChildren(problem(error.message)));
  }

  async update() {
    const mine = JSON.stringify(state.query);
    let selection;
    try {
      selection = await get('/api/runs', {...state.query, version: this.version});
    } catch (error) {
      if (error instanceof TypeError) throw error;  // No connection.
      this.message.replaceChildren(problem(error.message));
      return;
    }
    if (mine !== JSON.stringify(state.query)) return;
    if (selection.unchanged) { this.drawAges(); return; }
    this.message.replaceChildren();
    this.version = selection.version;
    this.selection = selection;
    this.offset = Date.now() / 1000 - selection.now;
    if (state.chosen === null) {
      state.chosen = new Set(selection.runs.slice(0, FIRST).map((r) => r.run));
    }
    const there = new Set(selection.runs.map((r) => r.run));
    for (const run of [...state.chosen]) if (!there.has(run)) state.chosen.delete(run);
    this.drawForm();
    this.drawList();
    await this.drawCurves();
  }

  drawForm() {
    const {query, metrics, metric} = this.selection;
    if (document.activeElement !== this.where) this.where.value = query.where;
    const likely = metrics.filter((m) => /^(eval|train)\//.test(m));
    this.metric.replaceChildren(...likely.map((m) =>
      h('option', {value: m, selected: m === metric}, m)));
    const best = this.selection.highest ? '-best' : 'best';
    const sort = query.sort || (query.metric ? best : 'age_s');
    if (![...this.sort.options].some((x) => x.value === sort)) {
      this.sort.append(h('option', {value: sort}, sort));
    }
    this.sort.value = sort;
    const shown = new Set([...usual(metrics), ...state.extra]);
    this.add.replaceChildren(h('option', {value: ''}, 'choose …'), ...metrics
      .filter((m) => !m.startsWith('baseline.') && !shown.has(m))
      .map((m) => h('option', {value: m}, m)));
  }

  drawList() {
    const {runs, total, metric, highest} = this.selection;
    this.count.textContent = `${runs.length === total ? total : `${runs.length} of ${total}`} ` +
      `run${total === 1 ? '' : 's'}; ${highest ? 'highest' : 'lowest'} ${metric || 'metric'}`;
    const focused = document.activeElement && document.activeElement.id;
    const shown = state.all ? runs : runs.slice(0, PAGE);
    this.ages = [];
    const rows = shown.map((row) => this.row(row));
    const best = 'best';
    this.list.replaceChildren(
      h('table', {class: 'runs-table'},
        h('caption', {class: 'visually-hidden'}, 'Runs'),
        h('thead', {}, h('tr', {}, ['', 'run', 'status', 'step', best, 'age'].map((t) =>
          h('th', {scope: 'col'}, t || h('span', {class: 'visually-hidden'}, 'curves'))))),
        h('tbody', {}, rows)),
      ...(shown.length < runs.length ? [h('button', {type: 'button', class: 'more', id: 'all',
        onclick: () => { state.all = true; this.drawList(); }}, `Show all ${runs.length}`)] : []));
    if (!runs.length) this.list.replaceChildren(h('p', {class: 'muted'}, total
      ? 'No run matches.' : 'No runs below these folders yet.'));
    if (focused) document.getElementById(focused)?.focus();
  }

  row(row) {
    const id = `choose-${row.run}`;
    const isChosen = state.chosen.has(row.run);
    const box = h('input', {type: 'checkbox', id, checked: isChosen,
                            'aria-label': `Show the curves of ${row.run}`,
                            onchange: (e) => this.choose(row.run, e.target.checked)});
    const mark = isChosen ? swatch(colors.of(row.run)) : null;
    const share = row.steps ? Math.min(1, row.step / row.steps) : 0;
    const age = h('td', {class: 'age'});
    this.ages.push([age, row.modified]);
    this.setAge(age, row.modified);
    return h('tr', {class: isChosen ? 'chosen' : null},
      h('td', {class: 'box'}, box, mark),
      h('th', {scope: 'row'}, h('a', {href: `#/run/${encodeURIComponent(row.run)}`, title: row.run}, ...named(row.run)),
        row.problems ? h('span', {class: 'warn', title: `${row.problems} problems: see the run`}, ' ⚠') : null),
      h('td', {}, status(row.status, row.why)),
      h('td', {class: 'num'}, row.steps ? `${number(row.step)} / ${number(row.steps)}` : number(row.step),
        row.status === 'running' ? h('progress', {max: 1, value: share, 'aria-label': 'steps'}) : null),
      h('td', {class: 'num', title: row.best_step === null ? null : `at step ${row.best_step}`}, number(row.best, 5)),
      age);
  }

  setAge(cell, modified) {
    cell.textContent = age(Date.now() / 1000 - this.offset - modified);
  }

  drawAges() {
    for (const [cell, modified] of this.ages || []) this.setAge(cell, modified);
  }

  choose(run, isChosen) {
    if (isChosen) state.chosen.add(run);
    else state.chosen.delete(run);
    colors.keep(state.chosen);
    this.drawList();
    this.drawCurves();
  }

  async drawCurves() {
    const metrics = [...new Set([...usual(this.selection.metrics), ...state.extra])];
    const chosen = this.selection.runs.map((r) => r.run).filter((r) => state.chosen.has(r));
    const asked = this.asked = {};
    const curves = chosen.length
      ? await get('/api/curves', {run: chosen, metric: metrics}) : [];
    const differences = chosen.length > 1 && chosen.length <= 16
      ? await get('/api/differences', {run: chosen}) : [];
    if (asked !== this.asked) return;
    this.curves = curves;
    for (const [metric, chart] of this.charts) {
      if (!metrics.includes(metric)) { chart.element.remove(); this.charts.delete(metric); }
    }
    for (const metric of metrics) {
      if (!this.charts.has(metric)) {
        const chart = new Chart(metric);
        this.charts.set(metric, chart);
        this.panels.append(chart.element);
      }
    }
    this.setSeries();
    this.drawForm();
    this.drawDifferences(chosen, differences);
  }

  setSeries() {
    for (const [metric, chart] of this.charts) {
      const mine = (this.curves || []).filter((c) => c.metric === metric && (state.baselines || !c.baseline));
      chart.set(mine.map((c) => ({
        ...c, name: c.baseline ? `${c.run}, baseline` : c.run, faint: c.baseline, ...colors.of(c.run),
      })), state);
    }
  }

  drawDifferences(chosen, differences) {
    this.differences.replaceChildren();
    if (!differences.length) return;
    const rows = differences.map(({field, values}) => [h('code', {}, field), ...values.map((x) => {
      const differs = JSON.stringify(x) !== JSON.stringify(values[0]);
      return h('span', {class: differs ? 'differs' : 'same'}, x === null ? '–' : value(x));
    })]);
    this.differences.append(h('h2', {}, `Config: ${rows.length} field${rows.length === 1 ? ' differs' : 's differ'}`),
      table(['field', ...chosen.map((run) => h('span', {class: 'head'}, swatch(colors.of(run)), run))], rows,
            {label: 'differences of configs'}));
  }
}

/** Opens the page. */
export async function open() {
  const page = new Runs();
  const selection = await get('/api/runs', state.query).catch(() => null);
  if (selection && !Object.keys(state.query).length) state.query = {...selection.query};
  setTimeout(() => page.update(), 0);
  return page;
}
