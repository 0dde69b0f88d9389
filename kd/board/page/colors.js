// Colors of runs: Okabe and Ito's, which color-blind readers can tell apart.
// The numbers are those of the custom properties --c0 to --c7 of board.css.

const COLORS = 8;
const DASHES = ['', '7 3', '2 3', '9 3 2 3'];
const taken = new Map();

/** Returns the color and the dashes of a run, which it keeps while shown. */
export function of(run) {
  if (!taken.has(run)) {
    const used = new Set(taken.values());
    let slot = 0;
    while (used.has(slot)) slot += 1;
    taken.set(run, slot);
  }
  const slot = taken.get(run);
  return {
    color: `var(--c${slot % COLORS})`,
    dashes: DASHES[Math.floor(slot / COLORS) % DASHES.length],
  };
}

/** Frees the colors of the runs that are not shown. */
export function keep(runs) {
  for (const run of [...taken.keys()]) if (!runs.has(run)) taken.delete(run);
}
