// The picture as text behind the # of the address, so that a link shows the same one.

import {DTYPES} from "./floats.js";
import {LOSSES} from "./losses.js";

export const START = {
  gamma: 0.5, alpha: 0.25, epsilon: 1e-3, dtype: "float32", target: 1, from: -10, to: 40,
  losses: Object.keys(LOSSES),
};

/** What a number may be. */
const RANGES = {
  gamma: [0, 100], alpha: [0, 1], epsilon: [0, 1], target: [0, 1], from: [-1e4, 1e4], to: [-1e4, 1e4],
};

const number = (text, [low, high], otherwise) => {
  const value = Number(text);
  return text !== "" && value >= low && value <= high ? value : otherwise;
};

/** The state that a fragment is, or the nearest that can be drawn: what is missing or isn't
    understood is as at the start. */
export function parse(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = {...START};
  for (const [key, range] of Object.entries(RANGES)) {
    if (given.has(key)) state[key] = number(given.get(key), range, START[key]);
  }
  if (given.get("alpha") === "none") state.alpha = null;
  if (Object.hasOwn(DTYPES, given.get("dtype"))) state.dtype = given.get("dtype");
  if (given.has("losses")) {
    const chosen = given.get("losses").split(",");
    state.losses = START.losses.filter(name => chosen.includes(name));
  }
  return state.from < state.to ? state : {...state, from: START.from, to: START.to};
}

/** The fragment of a state. */
export function format(state) {
  const words = {...state, alpha: state.alpha ?? "none", losses: state.losses.join(",")};
  return "#" + Object.entries(words).map(([key, value]) => `${key}=${value}`).join("&");
}
