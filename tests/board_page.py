"""Drives the board in Chromium; runs with KD_BROWSER_PYTHON's playwright.

Usage: board_page.py CHROMIUM URL METRICS_FILE LINES [FOLDER_OF_PICTURES]

METRICS_FILE belongs to the active run `now`; LINES are appended to it. Prints
JSON: the observed facts and the errors of the page's console.
"""

import json
import sys

from playwright import sync_api

_ARGUMENTS = (
  *('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'),
  *('--disable-background-networking', '--disable-component-update'),
  '--disable-sync',
)
# Returns the lowest contrast of a page's texts, as defined by WCAG 2.
_CONTRAST = """() => {
  const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => x / 255)
      .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    if (!e) return [255, 255, 255];
    const [r, g, b, alpha = 1] = numbers(getComputedStyle(e).backgroundColor);
    if (alpha === 1) return [r, g, b];
    const below = ground(e.parentElement);
    return [r, g, b].map((x, i) => alpha * x + (1 - alpha) * below[i]);
  };
  let least = 99;
  for (const e of document.querySelectorAll('main *, header *')) {
    const texts = [...e.childNodes].filter((n) => n.nodeType === 3);
    const is_shown = texts.some((n) => n.data.trim()) && e.offsetWidth;
    if (!is_shown || e.closest('svg, option')) continue;
    const text = numbers(getComputedStyle(e).color).slice(0, 3);
    const [a, b] = [text, ground(e)].map(light);
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
}"""
# Returns the answers of the first twenty examples of run r000.
_RECORDED = """async () => {
  const url = '/api/answers?run=r000&set=held_out';
  const found = await (await fetch(url)).json();
  return found.examples.slice(0, 20).flatMap((e) => Object.values(e.models)
    .map((m) => m.answer));
}"""
_WIDTH = 'document.documentElement.scrollWidth'


class Seen:
  """Opens pages and records facts about them."""

  def __init__(self, browser, url, pictures):
    self._browser, self._url, self._pictures = browser, url, pictures
    self.facts = {'errors': [], 'foreign': [], 'widths': {}, 'contrast': {}}

  def open(self, path, scheme='light', width=1280, height=860):
    """Opens a page and returns it."""
    context = self._browser.new_context(
      viewport={'width': width, 'height': height}, color_scheme=scheme
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on('pageerror', lambda e: self.facts['errors'].append(str(e)))
    page.on('console', self._note)
    page.on('request', self._check)
    page.goto(self._url + path)
    return page

  def _note(self, message):
    if message.type in ('error', 'warning'):
      self.facts['errors'].append(message.text)

  def _check(self, request):
    if not request.url.startswith((self._url, 'data:')):
      self.facts['foreign'].append(request.url)

  def picture(self, page, name):
    """Records the page's width and contrast; saves a picture if requested."""
    self.facts['widths'][name] = page.evaluate(_WIDTH)
    self.facts['contrast'][name] = page.evaluate(_CONTRAST)
    if self._pictures:
      page.screenshot(path=f'{self._pictures}/{name}.png')


def _look_at_runs(seen, metrics_file, lines):
  facts, page = seen.facts, seen.open('#/runs')
  page.wait_for_selector('path.curve')
  facts['count'] = page.text_content('.side > p')
  facts['charts'] = page.locator('figure.chart').count()
  seen.picture(page, 'runs-light')
  with open(metrics_file, 'a', encoding='utf-8') as f:
    f.write(lines)
  page.get_by_text('65 / 400').wait_for()
  page.fill('#where', 'config.optimizer.lr.peek > 1')
  page.press('#where', 'Enter')
  facts['refusal'] = page.wait_for_selector('.side .problem').text_content()
  page.fill('#where', "status = 'running'")
  page.press('#where', 'Enter')
  page.get_by_text('1 of 201 runs').wait_for()
  # The console reports responses with status 400, which are expected above.
  facts['errors'] = [e for e in facts['errors'] if '400' not in e]
  facts['rows'] = page.locator('.runs-table tbody tr').count()
  page.fill('#where', "run <> 'r100'")
  page.press('#where', 'Enter')
  page.get_by_text('200 of 201 runs').wait_for()
  facts['sort'] = page.input_value('#sort')
  facts['first'] = page.text_content('.runs-table tbody th')


def _use_the_keyboard(seen):
  facts, page = seen.facts, seen.open('#/runs')
  page.wait_for_selector('path.curve')
  page.keyboard.press('Tab')
  page.keyboard.press('Enter')
  facts['skipped_to'] = page.evaluate('document.activeElement.id')
  reached = []
  for _ in range(8):
    page.keyboard.press('Tab')
    reached.append(
      page.evaluate(
        '[document.activeElement.id, '
        'getComputedStyle(document.activeElement).outlineStyle]'
      )
    )
  facts['reached'] = reached
  page.focus('figure.chart svg')
  page.keyboard.press('ArrowLeft')
  page.keyboard.press('ArrowLeft')
  facts['readout'] = page.text_content('figure.chart .readout')
  box = page.locator('.runs-table input').nth(6)
  box.focus()
  before = page.locator('tr.chosen').count()
  page.keyboard.press('Space')
  page.locator('tr.chosen').nth(before).wait_for()
  facts['kept_focus'] = page.evaluate("document.activeElement.type || ''")


def _look_at_a_run(seen, path):
  facts, page = seen.facts, seen.open(path)
  page.wait_for_selector('.example')
  facts['intervals'] = page.locator('.interval').count()
  facts['images'] = page.locator('main img').count()
  facts['answers'] = page.locator('.example').first.inner_text()
  facts['texts'] = page.locator('.answer pre').all_text_contents()
  facts['recorded'] = page.evaluate(_RECORDED)
  _look_at_tokens(seen, page)
  seen.picture(page, 'run-light')
  page.locator('.example').first.scroll_into_view_if_needed()
  seen.picture(page, 'answers-light')


def _look_at_tokens(seen, page):
  """Reads the KL of tokens with the pointer and with the keyboard."""
  facts = seen.facts
  after = page.locator('.answer').filter(has_text='student after')
  facts['departed'] = after.first.locator('.departed').all_text_contents()
  text = after.nth(1).locator('pre')
  readout = after.nth(1).locator('[role=status]')
  facts['named'] = text.get_attribute('aria-label')
  facts['colors'] = text.locator('.token').evaluate_all(
    'spans => spans.map((s) => getComputedStyle(s).backgroundColor)'
  )
  text.locator('.token').nth(5).hover()
  facts['pointed'] = readout.text_content()
  text.focus()
  page.keyboard.press('End')
  facts['key'] = readout.text_content()
  page.keyboard.press('Tab')
  page.mouse.move(0, 0)
  facts['left'] = readout.text_content()
  page.keyboard.press('Shift+Tab')
  page.keyboard.press('Home')


def _look_at_an_earlier_run(seen):
  page = seen.open('#/run/r001')
  page.wait_for_selector('.example')
  seen.facts['earlier'] = page.locator('main').inner_text()
  marks = page.locator('.answer mark')
  seen.facts['earlier_marked'] = marks.all_text_contents()


def _look_at_trees(seen):
  page = seen.open('#/run/%')
  problem = page.wait_for_selector('main .problem')
  seen.facts['bad_address'] = problem.text_content()
  page.evaluate("location.hash = '#/documents'")
  page.click('details summary')
  page.click('.trees button.link')
  page.wait_for_selector('.tree .solution')
  seen.facts['tree'] = page.locator('.tree .root').inner_text()
  seen.picture(page, 'trees-light')


def _chat(seen):
  page = seen.open('#/chat')
  page.fill('#message', 'What is 2+2?')
  page.press('#message', 'Control+Enter')
  page.get_by_text('pieces').nth(1).wait_for()
  seen.facts['chat'] = page.locator('.said.model pre').all_text_contents()
  seen.picture(page, 'chat-light')


def _look_at_answers(seen, page, name):
  if 'run/' in page.url:
    page.wait_for_selector('.example')
    page.locator('.example').first.scroll_into_view_if_needed()
    seen.picture(page, name)


def _look_at_others(seen, run):
  for name, path in (
    *(('runs', '#/runs'), ('run', run)),
    *(('trees', '#/documents'), ('chat', '#/chat')),
  ):
    page = seen.open(path, scheme='dark')
    page.wait_for_selector('main h1, path.curve')
    page.wait_for_timeout(300)
    seen.picture(page, f'{name}-dark')
    _look_at_answers(seen, page, 'answers-dark')
    page = seen.open(path, width=390, height=844)
    page.wait_for_selector('main h1, path.curve')
    page.wait_for_timeout(300)
    seen.picture(page, f'{name}-390')
    _look_at_answers(seen, page, 'answers-390')


def main(chromium, url, metrics_file, lines, pictures=''):
  """Visits all pages and prints the facts."""
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=chromium, args=list(_ARGUMENTS)
    )
    seen = Seen(browser, url, pictures)
    _look_at_runs(seen, metrics_file, lines)
    _use_the_keyboard(seen)
    run = '#/run/r000'
    _look_at_a_run(seen, run)
    _look_at_an_earlier_run(seen)
    _look_at_trees(seen)
    _chat(seen)
    _look_at_others(seen, run)
    browser.close()
  print(json.dumps(seen.facts))


if __name__ == '__main__':
  main(*sys.argv[1:])
