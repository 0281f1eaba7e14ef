// Numbers of a dtype inside float64, and the operations that hardware rounds once.

const word = new DataView(new ArrayBuffer(8));

export const bits32 = x => (word.setFloat32(0, x), word.getInt32(0));
export const from32 = bits => (word.setInt32(0, bits), word.getFloat32(0));
export const bits64 = x => (word.setFloat64(0, x), word.getBigInt64(0));
export const from64 = bits => (word.setBigInt64(0, bits), word.getFloat64(0));

/** The biased exponent of a float64. */
const exponent64 = x => (word.setFloat64(0, x), (word.getInt32(0) >>> 20) & 0x7ff);

/** The sum of a and b, and what its rounding lost: Knuth's TwoSum, exact. */
export function twoSum(a, b) {
  const sum = a + b, part = sum - a;
  return [sum, a - (sum - part) + (b - part)];
}

/** Upper half of the bits of x: Veltkamp's splitting. */
function upper(x) {
  const c = x * 134217729;
  return c - (c - x);
}

/** The product of a and b, and what its rounding lost: Dekker's TwoProduct, exact while neither
    overflows or underflows. */
export function twoProduct(a, b) {
  const product = a * b;
  const ah = upper(a), al = a - ah, bh = upper(b), bl = b - bh;
  return [product, al * bl - (product - ah * bh - al * bh - ah * bl)];
}

/** hi + lo rounded to odd: of the two neighbours of an inexact sum, that with an odd last bit. A
    second rounding to two bits less is then as good as one. */
function roundToOdd(a, b) {
  const [sum, lost] = twoSum(a, b);
  if (lost === 0 || Number.isNaN(lost)) return sum;
  const bits = bits64(sum);
  if (bits & 1n) return sum;
  return from64((lost > 0) === (sum > 0) ? bits + 1n : bits - 1n);
}

/** a b + c rounded once to float32: the product is exact in float64. */
export const fma32 = (a, b, c) => Math.fround(roundToOdd(a * b, c));

/** a b + c rounded once to float64, by Boldo and Melquiond's algorithm. */
export function fma64(a, b, c) {
  if (!Number.isFinite(a * b + c) || a === 0 || b === 0) return a * b + c;
  const ea = exponent64(a), eb = exponent64(b), ec = exponent64(c);
  // Far apart from the bounds of float64 nothing below over- or underflows; else in integers.
  const e = ea + eb - 1023;
  if (ea > 1900 || eb > 1900 || ec > 1900 || e < 120 || e > 1900) return fmaOfIntegers(a, b, c);
  const [product, low] = twoProduct(a, b);
  const [sumHigh, sumLow] = twoSum(c, low);
  const [high, middle] = twoSum(product, sumHigh);
  return high + roundToOdd(middle, sumLow);
}

/** A finite float64 as an integer times a power of two. */
export function integral(x) {
  const bits = bits64(x), biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  const size = biased === 0 ? fraction : fraction | 0x10000000000000n;
  return [bits < 0n ? -size : size, Math.max(biased, 1) - 1075];
}

/** The float64 nearest to an integer times 2 ** exponent, ties to even. */
export function nearest64(integer, exponent) {
  if (integer === 0n) return 0;
  const size = integer < 0n ? -integer : integer;
  const length = size.toString(2).length;
  const shift = Math.max(length - 53, -1074 - exponent);
  let kept = size;
  if (shift > 0) {
    const by = BigInt(shift), half = 1n << (by - 1n), rest = size & ((1n << by) - 1n);
    kept = size >> by;
    if (rest > half || (rest === half && kept & 1n)) kept += 1n;
    exponent += shift;
  }
  const number = scale2(Number(kept), exponent);
  return integer < 0n ? -number : number;
}

/** x 2 ** e, for an x and a result that need no rounding. */
export function scale2(x, e) {
  while (e > 1000) [x, e] = [x * 2 ** 1000, e - 1000];
  while (e < -1000) [x, e] = [x * 2 ** -1000, e + 1000];
  return x * 2 ** e;
}

function fmaOfIntegers(a, b, c) {
  const [ma, ea] = integral(a), [mb, eb] = integral(b), [mc, ec] = integral(c);
  const e = Math.min(ea + eb, ec);
  const sum = ((ma * mb) << BigInt(ea + eb - e)) + (mc << BigInt(ec - e));
  return sum === 0n ? a * b + c : nearest64(sum, e);
}

const SHIFTER = 1.5 * 2 ** 52;

/** x rounded to float16, ties to even. */
export function toHalf(x) {
  const size = Math.abs(x);
  if (!(size < 65520)) return Number.isNaN(x) ? x : Math.sign(x) * Infinity;
  const quantum = 2 ** Math.max(exponent64(size) - 1023 - 10, -24);
  const rounded = (size / quantum + SHIFTER - SHIFTER) * quantum;
  return x < 0 || Object.is(x, -0) ? -rounded : rounded;
}

/** x, a float32, rounded to bfloat16, ties to even. */
export function toBfloat16(x) {
  if (Number.isNaN(x)) return x;
  const bits = bits32(x);
  return from32((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000);
}

/** What is to be known of a dtype. `round` takes the result of an operation in the dtype that
    computes: 16-bit numbers are computed with in float32, and each result is rounded. */
const dtype = (name, round, eps, tiny, max, bits) => ({name, round, eps, tiny, max, bits});

export const DTYPES = {
  float64: dtype("float64", x => x, 2 ** -52, 2 ** -1022, Number.MAX_VALUE, 64),
  float32: dtype("float32", Math.fround, 2 ** -23, 2 ** -126, (2 - 2 ** -23) * 2 ** 127, 32),
  float16: dtype("float16", x => toHalf(Math.fround(x)), 2 ** -10, 2 ** -14, 65504, 16),
  bfloat16: dtype(
    "bfloat16", x => toBfloat16(Math.fround(x)), 2 ** -7, 2 ** -126, (2 - 2 ** -7) * 2 ** 127, 16),
};

/** The distance between neighbouring numbers of a dtype around a size. */
export function spacing(size, {eps, tiny, max}) {
  const clamped = Math.min(Math.max(Math.abs(size), tiny), max);
  return 2 ** (exponent64(clamped) - 1023) * eps || 2 ** -1074;
}

/** The index of a number: neighbours differ by one, 0 has 0. */
export function indexOf(x, {name}) {
  const size = Math.abs(x);
  let index;
  if (name === "float64") index = bits64(size);
  else if (name === "float16") {
    index = size < 2 ** -14 ? size * 2 ** 24 : 0;
    if (size >= 2 ** -14) {
      const e = Math.min(exponent64(size) - 1023, 16);
      index = (e + 15) * 1024 + (e > 15 ? 0 : (size / 2 ** e - 1) * 1024);
    }
  } else index = name === "float32" ? bits32(size) : bits32(size) >>> 16;
  index = BigInt(index);
  return x < 0 ? -index : index;
}

/** The number of an index. */
export function numberAt(index, {name}) {
  const size = index < 0n ? -index : index;
  let x;
  if (name === "float64") x = from64(size);
  else if (name === "float16") {
    const e = Number(size >> 10n), fraction = Number(size & 1023n);
    x = e === 0 ? fraction * 2 ** -24 : e > 30 ? Infinity : (1 + fraction / 1024) * 2 ** (e - 15);
  } else x = from32(name === "float32" ? Number(size) : Number(size) << 16);
  return index < 0n ? -x : x;
}
