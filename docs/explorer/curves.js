// What is drawn: at logits of a dtype, the loss, its gradient, that beside the cross-entropy's, and the
// error of both in ULP, of each library and of the truth.

import {cliffs, slopes} from "./cliffs.js";
import {DTYPES} from "./floats.js";
import {LOSSES} from "./losses.js";
import {operations} from "./torch.js";
import {focalTruth, toNumber, ulpError} from "./truth.js";

export const POINTS = 481;

/** The options as numbers of the computation: float32 for 16 bits. The libraries get those that
    were given. */
function rounded({target, gamma, alpha}, dtype) {
  const r = dtype.bits === 64 ? x => x : Math.fround;
  return {
    target: dtype.round(target), gamma: r(gamma), alpha: alpha === null ? null : r(alpha),
  };
}

/** The distinct numbers of a dtype nearest to evenly spaced ones. */
export function logits({from, to, dtype}, count = POINTS) {
  const {round} = DTYPES[dtype], step = (to - from) / (count - 1);
  const found = Array.from({length: count}, (_, i) => round(from + i * step));
  return [...new Set(found.map(x => x + 0))].filter(Number.isFinite);
}

/** What a library's loss gives at a logit: {loss, gradient}. */
export function evaluator(name, options) {
  const dtype = DTYPES[options.dtype], o = operations(dtype), loss = LOSSES[name];
  const given = {...options, target: dtype.round(options.target)};
  return x => loss(x, given, o);
}

/** {x, truth, losses}: of each loss by name the columns loss, gradient, relative, ulp and
    ulpOfLoss. */
export function curves(options) {
  const dtype = DTYPES[options.dtype], right = rounded(options, dtype), x = logits(options);
  const truths = x.map(one => focalTruth(one, right));
  const share = x.map(one => slopes(one, {...right, gamma: 0}).crossEntropy);
  const relative = gradients => gradients.map((g, i) => (share[i] === 0 ? undefined : g / share[i]));
  const ofTruth = part => truths.map(one => toNumber(one[part]));
  const truth = {loss: ofTruth("loss"), gradient: ofTruth("gradient")};
  truth.relative = relative(truth.gradient);
  const losses = Object.fromEntries(options.losses.map(name => {
    const found = x.map(evaluator(name, options)), gradient = found.map(one => one.gradient);
    const errors = part => found.map((one, i) => ulpError(one[part], truths[i][part], dtype));
    return [name, {
      loss: found.map(one => one.loss), gradient, relative: relative(gradient),
      ulp: errors("gradient"), ulpOfLoss: errors("loss"),
    }];
  }));
  return {x, truth, losses};
}

/** The cliffs of each loss by name. */
export function allCliffs(options) {
  const dtype = DTYPES[options.dtype], right = rounded(options, dtype);
  return Object.fromEntries(options.losses.map(name => {
    const evaluate = evaluator(name, options), known = new Map();
    const gradient = x => {
      if (!known.has(x)) known.set(x, evaluate(x).gradient);
      return known.get(x);
    };
    return [name, cliffs(gradient, right, dtype)];
  }));
}
