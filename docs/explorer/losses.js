// The binary focal loss of each library and its gradient, in the order in which its code and autograd
// do their operations: {loss, gradient} of one logit x, at the incoming gradient 1.

/** torchvision.ops.sigmoid_focal_loss. */
function torchvision(x, {target: y, gamma, alpha}, o) {
  const other = o.sub(1, y);
  const p = o.sigmoid(x), crossEntropy = o.crossEntropy(x, y);
  const pT = o.add(o.mul(p, y), o.mul(o.sub(1, p), other));
  const q = o.sub(1, pT), factor = o.pow(q, gamma);
  const alphaT = alpha === null ? 1 : o.add(o.scale(y, alpha), o.scale(other, 1 - alpha));
  const loss = o.mul(alphaT, o.mul(crossEntropy, factor));

  const ofPT = -o.powBackward(o.mul(alphaT, crossEntropy), q, gamma);
  const ofP = o.add(-o.mul(ofPT, other), o.mul(ofPT, y));
  const ofEntropy = o.crossEntropyBackward(o.mul(alphaT, factor), x, y);
  return {loss, gradient: o.add(ofEntropy, o.sigmoidBackward(ofP, p))};
}

/** monai.losses.focal_loss.sigmoid_focal_loss. */
function monai(x, {target: y, gamma, alpha}, o) {
  const positive = o.logSigmoid(x);
  const crossEntropy = o.sub(o.sub(x, o.mul(x, y)), positive.value);
  const sign = o.sub(o.scale(y, 2), 1), z = o.mul(-x, sign), logQ = o.logSigmoid(z);
  const factor = o.exp(o.scale(logQ.value, gamma));
  let alphaT = 1;
  if (alpha !== null) {
    const a = o.round(o.wide.round(alpha));
    alphaT = o.add(o.mul(y, a), o.mul(o.sub(1, y), o.sub(1, a)));
  }
  const loss = o.mul(alphaT, o.mul(factor, crossEntropy));

  const ofEntropy = o.mul(alphaT, factor);
  const ofLogQ = o.scale(o.mul(o.mul(alphaT, crossEntropy), factor), gamma);
  const ofZ = -o.mul(o.logSigmoidBackward(ofLogQ, z, logQ.buffer), sign);
  const ofPositive = o.logSigmoidBackward(-ofEntropy, x, positive.buffer);
  const gradient = o.add(o.add(o.add(ofZ, ofPositive), ofEntropy), o.mul(-ofEntropy, y));
  return {loss, gradient};
}

/** kornia.losses.binary_focal_loss_with_logits. */
function kornia(x, {target: y, gamma, alpha}, o) {
  const logP = o.logSigmoid(x), logQ = o.logSigmoid(-x), other = o.sub(1, y);
  const factorQ = o.exp(o.scale(logQ.value, gamma)), weightQ = o.mul(-factorQ, y);
  const factorP = o.exp(o.scale(logP.value, gamma)), weightP = o.mul(-factorP, other);
  const positive = o.mul(weightQ, logP.value), negative = o.mul(weightP, logQ.value);
  let loss = o.add(positive, negative), gradPositive = 1, gradNegative = 1;
  if (alpha !== null) {
    loss = o.add(o.scale(positive, alpha), o.scale(negative, 1 - alpha));
    [gradPositive, gradNegative] = [o.scale(1, alpha), o.scale(1, 1 - alpha)];
  }

  const ofWeightP = -o.mul(o.mul(gradNegative, logQ.value), other);
  const ofWeightQ = -o.mul(o.mul(gradPositive, logP.value), y);
  const ofLogP = o.add(
    o.scale(o.mul(ofWeightP, factorP), gamma), o.mul(gradPositive, weightQ));
  const ofLogQ = o.add(
    o.mul(gradNegative, weightP), o.scale(o.mul(ofWeightQ, factorQ), gamma));
  const gradient = o.add(
    -o.logSigmoidBackward(ofLogQ, -x, logQ.buffer), o.logSigmoidBackward(ofLogP, x, logP.buffer));
  return {loss, gradient};
}

const SMALL = 0.4, IS_IDENTITY = 40;

/** parfocal's closed form from the side to which the logit points: numerics/closed_form.py. */
function sided(x, {target: y, gamma, epsilon}, {wide: o, dtype}) {
  const largest = dtype.bits === 64 ? Number.MAX_VALUE : (2 - 2 ** -23) * 2 ** 127;
  const side = x < 0 || Object.is(x, -0) ? -1 : 1, size = side * x;
  const bounded = Math.min(size, largest);
  const terms = a => {
    const t = o.exp(-a), n = o.add(1, t), l = a > IS_IDENTITY ? t : o.log1p(t);
    const other = o.sub(1, y), [w, v] = side > 0 ? [y, other] : [other, y];
    const r = o.div(t, n), isSmall = t < o.round(SMALL);
    const overN = z => isSmall ? o.sub(z, o.mul(z, r)) : o.div(z, n);
    const z = epsilon
      ? o.fma(o.add(w, o.round(epsilon)), t, o.add(v, o.round(epsilon))) : o.fma(w, t, v);
    const crossEntropy = v > 0 ? o.fma(v, a, l) : l;
    return {t, w, v, z, overN, factor: o.pow(overN(z), gamma), crossEntropy};
  };
  const {factor, crossEntropy} = terms(size);
  const value = o.mul(factor, crossEntropy);

  const s = terms(bounded), quotient = o.div(s.t, s.z === 0 ? 1 : s.z);
  const focusing = o.mul(
    o.mul(o.mul(quotient, o.sub(s.v, s.w)), s.crossEntropy), o.round(gamma));
  const inner = o.add(o.fma(-s.w, s.t, s.v), focusing);
  return {value, slope: o.mul(o.mul(s.overN(inner), s.factor), side)};
}

/** parfocal's form of a hard target in float32, from the odds in float64: numerics/hard.py. */
function fromOdds(x, {target: y, gamma}, {wide: o, odds}) {
  const direction = y === 1 ? -1 : 1, e = odds(direction * x);
  const n = e + 1, q = Math.fround(e / n), p = Math.fround(1 / n);
  const crossEntropy = o.log1p(Math.fround(e)), factor = o.pow(q, gamma);
  const slope = o.fma(o.mul(p, crossEntropy), o.round(gamma), q);
  return {value: o.mul(factor, crossEntropy), slope: o.mul(o.mul(slope, factor), direction)};
}

/** parfocal.sigmoid_focal_loss, with epsilon or without. */
function parfocal(x, options, o) {
  const {target: y, alpha, epsilon} = options, isHard = y === 0 || y === 1;
  let form = null;
  if (o.dtype.bits !== 64 && isHard && !epsilon) form = fromOdds(x, options, o);
  if (form === null || !Number.isFinite(form.value)) form = sided(x, options, o);
  const w = o.wide, r = o.round;
  if (alpha === null) return {loss: r(form.value), gradient: r(form.slope)};
  const alphaT = w.fma(y, w.round(alpha), w.mul(w.sub(1, y), w.round(1 - alpha)));
  return {loss: r(w.mul(alphaT, form.value)), gradient: r(w.mul(form.slope, alphaT))};
}

const exact = (x, options, o) => parfocal(x, {...options, epsilon: 0}, o);

/** By name, in the order in which they are drawn. */
export const LOSSES = {torchvision, monai, kornia, smoothed: parfocal, exact};
