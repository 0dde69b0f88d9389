// Chooses the page by the address, asks for changes, switches light and dark.

import {h, problem} from './dom.js';
import * as chat from './chat.js';
import * as documents from './documents.js';
import * as run from './run.js';
import * as runs from './runs.js';

const EVERY_MS = 2000;
const PAGES = {runs, run, documents, chat};
const main = document.getElementById('main');
const live = document.getElementById('live');
let page = null;
let turn = 0;

/** Returns the page's name and its argument, from #/NAME/ARGUMENT. */
function address() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/');
  return {name: PAGES[name] ? name : 'runs', argument: decodeURIComponent(rest.join('/'))};
}

/** Marks the link to a page as the current one. */
function mark(name) {
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('href') === `#/${name}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

async function open() {
  turn += 1;
  const mine = turn;
  page = null;  // The one before gets no more updates.
  main.replaceChildren(h('p', {class: 'muted'}, 'reading …'));
  try {
    const {name, argument} = address();
    mark(name === 'run' ? 'runs' : name);
    const opened = await PAGES[name].open(argument);
    if (mine !== turn) return;
    page = opened;
    main.replaceChildren(...[page.element].flat());
    document.title = page.title ? `${page.title} · kd board` : 'kd board';
  } catch (error) {
    if (mine === turn) main.replaceChildren(problem(error.message));
  }
}

async function poll() {
  try {
    if (!document.hidden && page && page.update) await page.update();
    live.textContent = '';
    live.className = '';
  } catch (error) {
    live.textContent = error instanceof TypeError
      ? 'no connection to the board' : error.message;
    live.className = 'problem';
  }
  setTimeout(poll, EVERY_MS);
}

const themes = ['auto', 'light', 'dark'];
const button = document.getElementById('theme');

function setTheme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = {auto: '◐ Auto', light: '○ Light', dark: '● Dark'}[name];
  button.setAttribute('aria-label', `Theme: ${name}`);
  try { localStorage.setItem('theme', name); } catch { /* A private window. */ }
}

function theme() {
  try { return localStorage.getItem('theme') || 'auto'; } catch { return 'auto'; }
}

setTheme(themes.includes(theme()) ? theme() : 'auto');
button.addEventListener('click', () =>
  setTheme(themes[(themes.indexOf(document.documentElement.dataset.theme || 'auto') + 1) % 3]));
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();  // The address names the page.
  main.focus();
});
window.addEventListener('hashchange', open);
open().finally(poll);
