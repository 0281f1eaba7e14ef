// The focal loss and its gradient in integers: numbers m 2 ** e with about 200 bits, far more than a
// float64 has, from the textbook's formulas.

import {integral, nearest64, spacing} from "./floats.js";

const BITS = 200, P = BigInt(BITS), ONE = 1n << P;

const length = m => (m < 0n ? -m : m).toString(16).length * 4;

/** m 2 ** e, with the bits that are carried. */
function big(m, e) {
  const beyond = length(m) - BITS - 20;
  return beyond > 0 ? {m: m >> BigInt(beyond), e: e + beyond} : {m, e};
}

export const ofNumber = x => big(...integral(x));
const ZERO = big(0n, 0), UNIT = big(1n, 0);

const negate = ({m, e}) => ({m: -m, e});
const multiply = (a, b) => big(a.m * b.m, a.e + b.e);
const divide = (a, b) => big((a.m << (2n * P)) / b.m, a.e - b.e - 2 * BITS);

export function add(a, b) {
  if (a.m === 0n || b.m === 0n) return a.m === 0n ? b : a;
  const [low, high] = a.e < b.e ? [a, b] : [b, a];
  const apart = high.e - low.e;
  if (apart > 3 * BITS && length(high.m) + apart > length(low.m) + 2 * BITS) return high;
  return big((high.m << BigInt(apart)) + low.m, low.e);
}

const subtract = (a, b) => add(a, negate(b));

/** As a multiple of 2 ** -BITS, cut off. */
function fixed({m, e}) {
  const shift = e + BITS;
  if (shift < 0 && length(m) + shift < -8) return 0n;
  return shift < 0 ? m >> BigInt(-shift) : m << BigInt(shift);
}

/** atanh(z) / z = 1 + z ** 2 / 3 + z ** 4 / 5 + ..., in fixed point. */
function atanhOverZ(square) {
  let sum = ONE, power = ONE;
  for (let n = 3n; (power = (power * square) >> P) > 0n; n += 2n) sum += power / n;
  return sum;
}

const LN2 = (2n * atanhOverZ(ONE / 9n)) / 3n;

/** log(1 + t) = 2 atanh(t / (2 + t)) for t in [0, 1], to full relative accuracy. */
function log1p(t) {
  const z = divide(t, add(t, big(2n, 0)));
  return multiply(z, big(2n * atanhOverZ(fixed(multiply(z, z))), -BITS));
}

/** log(b) for b > 0, in fixed point. */
function log({m, e}) {
  const size = m.toString(2).length;
  // b = f 2 ** k with f in [3 / 4, 3 / 2).
  let f = size > BITS ? m >> BigInt(size - BITS) : m << BigInt(BITS - size), k = e + size;
  if (4n * f < 3n * ONE) [f, k] = [2n * f, k - 1];
  const z = ((f - ONE) << P) / (f + ONE);
  return ((2n * z * atanhOverZ((z * z) >> P)) >> P) + BigInt(k) * LN2;
}

const HALVINGS = 10n;

/** exp(x) for x in fixed point: exp(r) 2 ** k, with Taylor's series at r 2 ** -10. */
function exp(x) {
  let k = x / LN2;
  if (x < k * LN2) k -= 1n;
  const r = (x - k * LN2) >> HALVINGS;
  let sum = ONE, term = ONE;
  for (let n = 1n; (term = ((term * r) >> P) / n) > 0n; n += 1n) sum += term;
  for (let i = 0n; i < HALVINGS; i += 1n) sum = (sum * sum) >> P;
  return big(sum, Number(k) - BITS);
}

/** exp(x) rounded once to float64. */
export function expRounded(x) {
  if (!(Math.abs(x) < 800)) return Number.isNaN(x) ? x : x > 0 ? Infinity : 0;
  return toNumber(exp(fixed(ofNumber(x))));
}

/** The float64 nearest to a number. */
export function toNumber({m, e}) {
  const top = length(m) + e;
  if (m === 0n || top < -1100) return 0;
  if (top > 1100) return m < 0n ? -Infinity : Infinity;
  return nearest64(m, e);
}

// exp(-FAR) is below every number of every dtype, and of their products.
const FAR = 1e6;

/** alpha_t (1 - p_t + epsilon) ** gamma ce and its slope in the logit, a finite number.

    Every argument is taken exactly as it is given; alpha null is no alpha_t. */
export function focalTruth(x, {target, gamma, alpha = null, epsilon = 0}) {
  const y = ofNumber(target), n = subtract(UNIT, y), size = ofNumber(Math.abs(x));
  const t = exp(fixed(negate(ofNumber(Math.min(Math.abs(x), FAR)))));
  const right = divide(UNIT, add(UNIT, t)), wrong = multiply(t, right);
  const [p, q] = x >= 0 ? [right, wrong] : [wrong, right];
  const near = log1p(t), far = add(near, size);
  const [minusLogP, minusLogQ] = x >= 0 ? [near, far] : [far, near];

  const base = add(add(multiply(y, q), multiply(n, p)), ofNumber(epsilon));
  const crossEntropy = add(multiply(y, minusLogP), multiply(n, minusLogQ));
  const baseSlope = multiply(subtract(n, y), multiply(p, q));
  const entropySlope = subtract(multiply(n, p), multiply(y, q));
  let factor = UNIT;
  if (gamma > 0) factor = exp(fixed(multiply(ofNumber(gamma), big(log(base), -BITS))));
  if (alpha !== null) {
    const a = ofNumber(alpha);
    factor = multiply(factor, add(multiply(y, a), multiply(n, subtract(UNIT, a))));
  }
  const focusing = multiply(ofNumber(gamma), multiply(crossEntropy, divide(baseSlope, base)));
  return {
    loss: multiply(factor, crossEntropy), gradient: multiply(factor, add(focusing, entropySlope)),
  };
}

/** |computed - truth| in units in the last place of the truth, never NaN: as `parfocal.audit.ulp`.

    An infinity is no error where the truth overflows the dtype; NaN, or an infinity anywhere else,
    is an infinite error; a finite number where the truth overflows is held to the largest number. */
export function ulpError(computed, truth, dtype) {
  const size = Math.abs(toNumber(truth)), unit = spacing(size, dtype);
  const overflow = dtype.max + (dtype.bits === 64 ? 0 : unit / 2);
  if (size >= overflow) {
    const sign = truth.m < 0n ? -1 : 1;
    if (computed === sign * Infinity) return 0;
    truth = ofNumber(sign * dtype.max);
  }
  if (!Number.isFinite(computed)) return Infinity;
  const {m, e} = subtract(ofNumber(computed), truth);
  return Math.abs(toNumber({m, e: e - Math.log2(unit)}));
}
