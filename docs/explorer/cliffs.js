// Where a gradient breaks: the smallest |logit| on the target's own side at which it isn't finite, and
// that at which it ends to be within 1 % of the truth.

import {indexOf, numberAt} from "./floats.js";

const LIMIT = 120, STEPS = 1024, PROBES = 1024, SCANS = 4;
const ONE_PERCENT = 0.01;

/** The cross-entropy's gradient p - y, and the focal loss's true one without alpha_t, to about 12
    digits: what an error of 1 % is held to. */
export function slopes(x, {target: y, gamma}) {
  const t = Math.exp(-Math.abs(x)), n = 1 + t, l = Math.log1p(t);
  const [w, v] = x >= 0 ? [y, 1 - y] : [1 - y, y], z = w * t + v, side = x >= 0 ? 1 : -1;
  const crossEntropy = side * (v - w * t) / n, size = l + v * Math.abs(x);
  const focusing = z === 0 ? -1 : ((v - w) * t) / z;
  const inner = (v - w * t + gamma * size * focusing) / n;
  return {crossEntropy, focal: side * (z / n) ** gamma * inner};
}

/** The first number of a dtype from 0 to the limit, on a side, of which something is so: by steps,
    then by bisection, then by looks at numbers nearer to 0, as errors of rounding are scattered. */
function first(isWrong, dtype, side) {
  const probe = index => isWrong(side * numberAt(index, dtype));
  const end = indexOf(dtype.round(LIMIT), dtype);
  const indices = steps(end, dtype);
  const at = indices.findIndex(probe);
  if (at < 0) return null;
  let high = edge(probe, at > 0 ? indices[at - 1] : -1n, indices[at]);
  for (let scan = 0; scan < SCANS; scan++) {
    const nearer = nearerThan(high, dtype), found = nearer.findIndex(probe);
    if (found < 0) break;
    high = edge(probe, found > 0 ? nearer[found - 1] : -1n, nearer[found]);
  }
  return numberAt(high, dtype);
}

const unique = indices => [...new Set(indices)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));

function steps(end, dtype) {
  const found = Array.from({length: STEPS + 1}, (_, i) =>
    indexOf(dtype.round(LIMIT * i / STEPS), dtype));
  return unique([...found, end]);
}

/** Indices below one: of the numbers between its half and itself, and between 0 and itself. */
function nearerThan(high, dtype) {
  const x = numberAt(high, dtype), half = indexOf(dtype.round(x / 2), dtype);
  if (high - half <= BigInt(PROBES)) {
    return Array.from({length: Number(high - half)}, (_, i) => half + BigInt(i));
  }
  const spread = Array.from({length: PROBES}, (_, i) =>
    indexOf(dtype.round(x * (0.5 + 0.5 * i / PROBES)), dtype));
  const nearer = Array.from({length: PROBES / 2}, (_, i) =>
    indexOf(dtype.round(x * i / PROBES), dtype));
  return unique([...nearer, ...spread]).filter(index => index < high);
}

/** The index at which it begins to be so, between one at which it isn't and one at which it is. */
function edge(probe, low, high) {
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle >= 0n && probe(middle)) high = middle;
    else low = middle;
  }
  return high;
}

/** {notFinite, percent}: the two logits, null where there is none up to 120.

    gradient: that of a loss at a logit. */
export function cliffs(gradient, {target, gamma, alpha}, dtype) {
  const side = target >= 0.5 ? 1 : -1;
  const share = alpha === null ? 1 : target * alpha + (1 - target) * (1 - alpha);
  const isOff = x => {
    const truth = share * slopes(x, {target, gamma}).focal;
    const error = Math.abs(gradient(x) - truth);
    return Math.abs(truth) >= dtype.tiny && !(error <= ONE_PERCENT * Math.abs(truth));
  };
  return {
    notFinite: first(x => !Number.isFinite(gradient(x)), dtype, side),
    percent: first(isOff, dtype, side),
  };
}
