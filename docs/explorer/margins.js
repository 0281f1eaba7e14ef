// A guard's margins as JSON, `FocalGuard.margins()`, counted in bins: one's own training on the curve.

const FORMAT = "parfocal margins 1";

const isCount = n => Number.isInteger(n) && n >= 0;
const isList = value => Array.isArray(value);
const isName = value => typeof value === "string" && value !== "" && value.length <= 100;

/** The beginning of a value, as JSON. */
const excerpt = value => {
  const text = JSON.stringify(value) ?? "none";
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
};

/** The histogram that a text is: {edges, zeros, ones, step, loss, dtype}.

    Throws an Error in one sentence. */
export function parseMargins(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("This isn't JSON: expected what json.dumps(guard.margins()) gives.");
  }
  if (found?.format !== FORMAT) {
    throw new Error(`Expected the format "${FORMAT}", got ${excerpt(found?.format)}.`);
  }
  const {edges, zeros, ones} = found;
  const isEdge = (e, i) => Number.isFinite(e) && (i === 0 || e > edges[i - 1]);
  if (!isList(edges) || edges.length < 2 || !edges.every(isEdge)) {
    throw new Error("Expected ascending edges of bins.");
  }
  for (const counts of [zeros, ones]) {
    if (!isList(counts) || counts.length !== edges.length + 1 || !counts.every(isCount)) {
      throw new Error(`Expected ${edges.length + 1} counts of margins, a bin each.`);
    }
  }
  if (!isCount(found.step)) throw new Error(`Expected the number of a step, got ${excerpt(found.step)}.`);
  for (const key of ["loss", "dtype"]) {
    if (!isName(found[key])) throw new Error(`Expected the name of a ${key}, got ${excerpt(found[key])}.`);
  }
  return found;
}

const sum = counts => counts.reduce((a, b) => a + b, 0);

/** The counts by margin at a target, 0 or 1; a softmax has margins of the true class alone. */
const ofTarget = (histogram, target) => target >= 0.5 ? histogram.ones : histogram.zeros;

/** The shares of the bins between two edges by the logit in their middle, ascending. */
export function shares(histogram, target) {
  const counts = ofTarget(histogram, target), total = sum(counts), {edges} = histogram;
  const bins = edges.slice(1).map((high, i) => [
    (edges[i] + high) / 2, total ? counts[i + 1] / total : 0,
  ]);
  return target >= 0.5 ? bins : bins.map(([u, share]) => [-u, share]).reverse();
}

/** The share of margins in bins that are beyond a cliff as a whole; null where there are none. */
export function beyond(histogram, target, cliff) {
  const counts = ofTarget(histogram, target), total = sum(counts), {edges} = histogram;
  if (!total) return null;
  if (cliff === null) return 0;
  return sum(counts.filter((_, i) => i > 0 && edges[i - 1] >= cliff)) / total;
}
