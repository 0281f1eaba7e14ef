// exp, log1p and pow, operation by operation as Sleef computes them, which torch calls on a CPU with
// AVX2 and FMA: Sleef's functions of 1.0 ULP (Boost Software License 1.0, N. Shibata and
// contributors). An FMA is rounded once, and the order of every sum is Sleef's.

import {bits32, bits64, fma32, fma64, from32, from64} from "./floats.js";

/** Sums and products of pairs [high, low], each operation rounded by `r`, with its fma. */
function pairs(r, fma) {
  const normalize = ([x, y]) => { const s = r(x + y); return [s, r(r(x - s) + y)]; };
  const scale = ([x, y], s) => [r(x * s), r(y * s)];
  // `add` needs the larger number first, `add2` does not.
  const add = (x, [yh, yl]) => {
    const s = r(x + yh);
    return [s, r(r(r(x - s) + yh) + yl)];
  };
  const addTo = ([xh, xl], y) => {
    const s = r(xh + y);
    return [s, r(r(r(xh - s) + y) + xl)];
  };
  const addPairs = ([xh, xl], [yh, yl]) => {
    const s = r(xh + yh);
    return [s, r(r(r(r(xh - s) + yh) + xl) + yl)];
  };
  const error2 = (x, y, s) => {
    const v = r(s - x);
    return r(r(x - r(s - v)) + r(y - v));
  };
  const add2 = (x, y) => { const s = r(x + y); return [s, error2(x, y, s)]; };
  const add2To = ([xh, xl], y) => { const s = r(xh + y); return [s, r(error2(xh, y, s) + xl)]; };
  const add2Pairs = ([xh, xl], [yh, yl]) => {
    const s = r(xh + yh);
    return [s, r(error2(xh, yh, s) + r(xl + yl))];
  };
  const divide = ([nh, nl], [dh, dl]) => {
    const t = r(1 / dh), s = r(nh * t);
    const u = fma(t, nh, -s), v = fma(-dl, t, fma(-dh, t, 1));
    return [s, fma(s, v, fma(nl, t, u))];
  };
  const square = ([x, y]) => { const s = r(x * x); return [s, fma(r(x + x), y, fma(x, x, -s))]; };
  const times = ([x, y], z) => { const s = r(x * z); return [s, fma(y, z, fma(x, z, -s))]; };
  const multiply = ([xh, xl], [yh, yl]) => {
    const s = r(xh * yh);
    return [s, fma(xh, yl, fma(xl, yh, fma(xh, yh, -s)))];
  };
  return {
    normalize, scale, add, addTo, addPairs, add2, add2To, add2Pairs, divide, square, times, multiply,
  };
}

const single = pairs(Math.fround, fma32), double = pairs(x => x, fma64);

/** A polynomial by Horner's rule, the highest coefficient first. */
function horner(fma, x, coefficients) {
  return coefficients.reduce((u, c) => fma(u, x, c));
}

/** A polynomial by Estrin's scheme: in x, of pairs in x ** 2, of pairs in x ** 4, and so on; the
    coefficients from the highest on, of which the lowest are paired first. */
function estrin(x, coefficients) {
  let terms = [...coefficients].reverse();
  while (terms.length > 1) {
    const next = [];
    for (let i = 0; i < terms.length; i += 2) {
      next.push(i + 1 < terms.length ? fma64(x, terms[i + 1], terms[i]) : terms[i]);
    }
    [terms, x] = [next, x * x];
  }
  return terms[0];
}

/** The nearest integer, ties to even. */
const rint = x => Math.abs(x) < 2 ** 51 ? x + 1.5 * 2 ** 52 - 1.5 * 2 ** 52 : x;

const f = Math.fround;
const LN2_HIGH32 = f(0.693145751953125), LN2_LOW32 = f(1.428606765330187045e-06);
const LN2_HIGH = 0.69314718055966295651160180568695068359375;
const LN2_LOW = 0.28235290563031577122588448175013436025525412068e-12;
const PER_LN2 = 1.4426950408889634;
const LN2_PAIR32 = [f(0.69314718246459960938), f(-1.904654323148236017e-09)];
const LN2_PAIR = [0.693147180559945286226764, 2.319046813846299558417771e-17];

const pow2of32 = q => from32((q + 127) << 23);
const pow2of64 = q => from64(BigInt(q + 1023) << 52n);
const ldexp2of32 = (x, q) => f(f(x * pow2of32(q >> 1)) * pow2of32(q - (q >> 1)));
const ldexp2of64 = (x, q) => x * pow2of64(q >> 1) * pow2of64(q - (q >> 1));

/** Where x scaled by 4 / 3 has its exponent: of x = m 2 ** e, m in [0.75, 1.5). */
const exponent32 = x => ((bits32(f(x * f(4 / 3))) >>> 23) & 0xff) - 127;
const exponent64 = x => Number((bits64(x * (4 / 3)) >> 52n) & 0x7ffn) - 1023;

const EXP32 = [
  0.000198527617612853646278381, 0.00139304355252534151077271, 0.00833336077630519866943359,
  0.0416664853692054748535156, 0.166666671633720397949219, 0.5,
].map(f);

/** Sleef_expf_u10. */
export function exp32(d) {
  if (Number.isNaN(d)) return d;
  if (d < -104) return 0;
  if (d > 100) return Infinity;
  const q = rint(f(d * f(PER_LN2)));
  const s = fma32(q, -LN2_LOW32, fma32(q, -LN2_HIGH32, d));
  const u = f(1 + fma32(f(s * s), horner(fma32, s, EXP32), s));
  return ldexp2of32(u, q);
}

const EXP64 = [
  0.2081276378237164457e-8, 0.2511210703042288022e-7, 0.2755762628169491192e-6,
  0.2755723402025388239e-5, 0.2480158687479686264e-4, 0.1984126989855865850e-3,
  0.1388888888914497797e-2, 0.8333333333314938210e-2, 0.4166666666666602598e-1,
  0.1666666666666669072,
];

/** Sleef_exp_u10. */
export function exp64(d) {
  if (Number.isNaN(d)) return d;
  if (d > 709.782712893384) return Infinity;
  if (d < -1000) return 0;
  const q = rint(d * PER_LN2);
  const s = fma64(q, -LN2_LOW, fma64(q, -LN2_HIGH, d));
  const u = horner(fma64, s, [estrin(s, EXP64), 0.5, 1, 1]);
  return ldexp2of64(u, q);
}

const LOG32 = [0.3027294874, 0.3996108174, 0.6666694880].map(f);

/** log(m 2 ** e) for the pair x = (m - 1) / (m + 1), the end of Sleef's logf and log1pf. */
function logOf32(x, e) {
  const x2 = f(x[0] * x[0]), t = horner(fma32, x2, LOG32);
  let s = single.times(LN2_PAIR32, e);
  s = single.addPairs(s, single.scale(x, 2));
  s = single.addTo(s, f(f(x2 * x[0]) * t));
  return f(s[0] + s[1]);
}

/** Sleef_logf_u10, of a normal number. */
function log32(d) {
  if (d === Infinity) return d;
  const e = exponent32(d), m = from32(bits32(d) - (e << 23));
  return logOf32(single.divide(single.add2(-1, m), single.add2(1, m)), e);
}

/** Sleef_log1pf_u10, for d >= 0. */
export function log1p32(d) {
  if (Number.isNaN(d) || d === 0) return d;
  if (d > 1.0e38) return log32(d);
  const e = exponent32(f(d + 1)), t = pow2of32(-e), m = fma32(d, t, f(t - 1));
  const s = f(2 + m);
  return logOf32(single.divide([m, 0], [s, f(f(2 - s) + m)]), e);
}

const LOG64 = [
  0.1532076988502701353, 0.1525629051003428716, 0.1818605932937785996, 0.2222214519839380009,
  0.2857142932794299317, 0.3999999999635251990, 0.6666666666667333541,
];

/** Sleef_log1p_u10, for 0 <= d <= 1e307. */
export function log1p64(d) {
  if (Number.isNaN(d) || d === 0) return d;
  const e = exponent64(d + 1), t = pow2of64(-e), m = fma64(d, t, t - 1);
  const n = 2 + m, x = double.divide([m, 0], [n, 2 - n + m]);
  const x2 = x[0] * x[0];
  let s = double.times(LN2_PAIR, e);
  s = double.addPairs(s, double.scale(x, 2));
  s = double.addTo(s, x2 * x[0] * estrin(x2, LOG64));
  return s[0] + s[1];
}

const POW_LOG32 = [
  0.240320354700088500976562, 0.285112679004669189453125, 0.400007992982864379882812,
].map(f);

/** The logarithm of a positive number as a pair: Sleef's logkf. */
function logPair32(d) {
  const isSmall = d < 2 ** -126;
  if (isSmall) d = f(d * 2 ** 64);
  let e = exponent32(d);
  const m = from32(bits32(d) - (e << 23));
  if (isSmall) e -= 64;
  const x = single.divide(single.add2(-1, m), single.add2(1, m)), x2 = single.square(x);
  const t = horner(fma32, x2[0], POW_LOG32);
  const c = [f(0.66666662693023681640625), f(3.69183861259614332084311e-09)];
  let s = single.times(LN2_PAIR32, e);
  s = single.addPairs(s, single.scale(x, 2));
  const inner = single.add2Pairs(single.times(x2, t), c);
  return single.addPairs(s, single.multiply(single.multiply(x2, x), inner));
}

const POW_EXP32 = [
  0.00136324646882712841033936, 0.00836596917361021041870117, 0.0416710823774337768554688,
  0.166665524244308471679688, 0.499999850988388061523438,
].map(f);

/** x 2 ** q by five factors: Sleef's ldexpf, which rounds a subnormal number more than once. */
function ldexp5of32(x, q) {
  let m = q >> 31;
  m = (((m + q) >> 6) - m) << 4;
  const u = pow2of32(Math.min(Math.max(m, -127), 128));
  return f(f(f(f(f(x * u) * u) * u) * u) * pow2of32(q - (m << 2)));
}

/** The exponential of a pair: Sleef's expkf. */
function expOfPair32(d) {
  if (d[0] < -104) return 0;
  const q = rint(f(f(d[0] + d[1]) * f(PER_LN2)));
  let s = single.add2To(d, f(q * -LN2_HIGH32));
  s = single.normalize(single.add2To(s, f(q * -LN2_LOW32)));
  const u = horner(fma32, s[0], POW_EXP32);
  const t = single.add(1, single.addPairs(s, single.times(single.square(s), u)));
  return ldexp5of32(f(t[0] + t[1]), q);
}

const POW_LOG64 = [
  0.116255524079935043668677, 0.103239680901072952701192, 0.117754809412463995466069,
  0.13332981086846273921509, 0.153846227114512262845736, 0.181818180850050775676507,
  0.222222222230083560345903, 0.285714285714249172087875, 0.400000000000000077715612,
];

function logPair64(d) {
  const isSmall = d < 2 ** -1022;
  if (isSmall) d *= 2 ** 64;
  let e = exponent64(d);
  const m = from64(bits64(d) - (BigInt(e) << 52n));
  if (isSmall) e -= 64;
  let x = double.divide(double.add2(-1, m), double.add2(1, m));
  const x2 = double.square(x), t = estrin(x2[0], POW_LOG64);
  const c = [0.666666666666666629659233, 3.80554962542412056336616e-17];
  let s = double.addPairs(double.times(LN2_PAIR, e), double.scale(x, 2));
  x = double.multiply(x2, x);
  s = double.addPairs(s, double.multiply(x, c));
  x = double.multiply(x2, x);
  return double.addPairs(s, double.times(x, t));
}

const POW_EXP64 = [
  2.51069683420950419527139e-08, 2.76286166770270649116855e-07, 2.75572496725023574143864e-06,
  2.48014973989819794114153e-05, 0.000198412698809069797676111, 0.0013888888939977128960529,
  0.00833333333332371417601081, 0.0416666666665409524128449, 0.166666666666666740681535,
  0.500000000000000999200722,
];

function expOfPair64(d) {
  if (d[0] < -1000) return 0;
  if (d[0] > 709.782712893384) return Infinity;
  const q = rint((d[0] + d[1]) * PER_LN2);
  let s = double.add2To(d, q * -LN2_HIGH);
  s = double.normalize(double.add2To(s, q * -LN2_LOW));
  const u = estrin(s[0], POW_EXP64);
  const t = double.addPairs(double.add(1, s), double.times(double.square(s), u));
  return ldexp2of64(t[0] + t[1], q);
}

/** Sleef's pow for x >= 0 and a finite y. */
function power(x, y, logPair, times, expOfPair) {
  if (y === 0 || x === 1) return 1;
  if (Number.isNaN(x) || Number.isNaN(y) || x < 0) return NaN;
  if (x === 0 || x === Infinity) return (x === 0) === (y > 0) ? 0 : Infinity;
  const result = expOfPair(times(logPair(x), y));
  return Number.isNaN(result) ? Infinity : result;
}

/** Sleef_powf_u10 for x >= 0. */
export const pow32 = (x, y) => power(x, y, logPair32, single.times, expOfPair32);

/** Sleef_pow_u10 for x >= 0. */
export const pow64 = (x, y) => power(x, y, logPair64, double.times, expOfPair64);
