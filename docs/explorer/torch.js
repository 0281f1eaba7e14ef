// The operations of torch that the losses are made of, as its kernels for a CPU with AVX2 round
// them, at dense tensors; and of their derivatives the formulas of torch's derivatives.yaml.
//
// 16-bit numbers are computed with in float32; each operation rounds its result to 16 bits.

import {exp32, exp64, log1p32, log1p64, pow32, pow64} from "./elementary.js";
import {fma32, fma64} from "./floats.js";
import {expRounded} from "./truth.js";

const f = Math.fround;

/** exp of a float32 rounded once: by Math.exp where its error can't change that. */
function expRounded32(x) {
  const y = Math.exp(x), low = f(y * (1 - 2 ** -50));
  return low === f(y * (1 + 2 ** -50)) || Number.isNaN(y) ? f(y) : f(expRounded(x));
}

/** The operations in a dtype. `wide` are those of the dtype that computes, each rounded once. */
export function operations(dtype) {
  const is64 = dtype.bits === 64, is16 = dtype.bits === 16;
  const r = dtype.round, w = is64 ? x => x : f;
  const sleefExp = is64 ? exp64 : exp32, log1p = is64 ? log1p64 : log1p32;
  const sleefPow = is64 ? pow64 : pow32, fma = is64 ? fma64 : fma32;

  const wide = {
    round: w,
    add: (a, b) => w(a + b), sub: (a, b) => w(a - b), mul: (a, b) => w(a * b),
    div: (a, b) => w(a / b), fma,
    // torch.exp of float32 and float64 is that of MKL, which isn't public: correctly rounded here.
    exp: is64 ? expRounded : expRounded32,
    log1p,
    pow: (x, y) => power(x, y, w, w, (base, exponent) => sleefPow(base, w(exponent))),
  };

  // A number beside a tensor of 16 bits isn't rounded to these, but as an exponent it is; of
  // float16 every power is a general one.
  const general = (x, y) => r(sleefPow(x, r(y)));
  const pow = (x, y) =>
    dtype.name === "float16" && y !== 0 && y !== 1 ? general(x, y) : power(x, y, r, w, general);
  const sigmoid = x => r(w(1 / w(1 + sleefExp(-x))));
  const logSigmoid = x => {
    const buffer = sleefExp(-Math.abs(x));
    return {value: r(w(Math.min(x, 0) - log1p(buffer))), buffer: r(buffer)};
  };
  // Of float16 each of the three operations is rounded, of bfloat16 the last one.
  const between = dtype.name === "float16" ? r : w;
  return {
    dtype, wide, round: r,
    odds: expRounded, // of float64, whatever the dtype
    add: (a, b) => r(a + b), sub: (a, b) => r(a - b), mul: (a, b) => r(a * b),
    scale: (a, number) => r(a * w(number)),
    exp: is16 ? x => r(exp32(x)) : wide.exp,
    pow,
    powBackward: (grad, x, y) => y === 0 ? 0 : r(grad * r(pow(x, y - 1) * w(y))),
    sigmoid,
    sigmoidBackward: (grad, p) => r(between(between(grad * between(1 - p)) * p)),
    logSigmoid,
    logSigmoidBackward: (grad, x, buffer) => {
      const share = w(buffer / w(1 + buffer));
      return r(w((x < 0 ? w(1 - share) : share) * grad));
    },
    // (1 - y) x - log sigmoid(x), and (sigmoid(x) - y) grad.
    crossEntropy: (x, y) => r(r(r(1 - y) * x) - logSigmoid(x).value),
    crossEntropyBackward: (grad, x, y) => r(r(sigmoid(x) - y) * grad),
  };
}

/** x ** y for a number y: roots and products by themselves. The root of float32 and float64 is that
    of MKL, which isn't public either, and whose last bit isn't always right. */
function power(x, y, r, w, general) {
  if (y === 0) return 1;
  if (y === 1) return x;
  if (y === 0.5) return r(w(Math.sqrt(x)));
  if (y === 2) return r(x * x);
  if (y === 3) return r(r(x * x) * x);
  if (y === -0.5) return r(w(1 / w(Math.sqrt(x))));
  if (y === -1) return r(1 / x);
  if (y === -2) return r(1 / r(x * x));
  return general(x, y);
}
