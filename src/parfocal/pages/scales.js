"use strict";
// Numbers of charts: as text, and on axes.
const scales = (() => {
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  // Numbers as text.

  function power(exponent) {
    const digits = [...String(Math.abs(exponent))].map(d => SUPERSCRIPTS[d]).join("");
    return `10${exponent < 0 ? "⁻" : ""}${digits}`;
  }

  function words(value, digits = 4) {
    if (value === null || value === undefined) return value === null ? "not finite" : "none";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(Math.max(digits, 1)))).replace("-", "−");
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    const factor = String(Number(mantissa)).replace("-", "−");
    return factor === "1" ? power(Number(exponent)) : factor === "−1" ? "−" + power(Number(exponent)) : `${factor}·${power(Number(exponent))}`;
  }

  function number(text) {
    const found = text.trim().replace("−", "-");
    if (found === "") return undefined;
    const value = Number(found);
    return Number.isFinite(value) ? value : null;
  }

  // Scales: from values to places on a line and back, and the values written at an axis.

  function rounds(low, high, most) {
    const span = (high - low) || 1, magnitude = 10 ** Math.floor(Math.log10(span / most));
    const step = [1, 2, 5, 10].map(m => m * magnitude).find(s => span / s <= most);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(Number((n * step).toPrecision(12)));
    return found;
  }

  function powers(low, high, most) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    if (last - first < 1) return rounds(low, high, most).filter(v => v > 0);
    const step = [1, 2, 3, 5, 10, 20, 50, 100].find(s => (last - first) / s <= most) || 200;
    const found = [];
    for (let n = Math.ceil(first / step) * step; n <= last; n += step) found.push(10 ** n);
    return found;
  }

  const SCALES = {
    linear: () => ({ place: v => v, value: p => p, ticks: rounds }),
    category: names => ({
      place: v => v, value: p => p,
      ticks: (low, high) => names.map((_, i) => i).filter(i => i >= low && i <= high),
      label: v => names[Math.round(v)] ?? "",
    }),
    log: () => ({ place: v => (v > 0 ? Math.log10(v) : null), value: p => 10 ** p, ticks: powers }),
    symlog: (_, c, zone = 1) => ({
      place: v => Math.sign(v) * (Math.abs(v) < c ? zone * Math.abs(v) / c : zone + Math.log10(Math.abs(v) / c)),
      value: p => Math.sign(p) * c * (Math.abs(p) < zone ? Math.abs(p) / zone : 10 ** (Math.abs(p) - zone)),
      ticks: (low, high, most) => {
        const share = low < 0 && high > 0 ? Math.max(2, most / 2) : most, least = c;
        const up = high > least ? powers(Math.max(low, least), high, share) : [];
        const down = low < -least ? powers(Math.max(-high, least), -low, share).map(v => -v) : [];
        return [...down.reverse(), ...(low <= 0 && high >= 0 ? [0] : []), ...up];
      },
    }),
  };

  function scaleOf(axis, names) {
    const made = (SCALES[axis.scale] || SCALES.linear)(names, axis.threshold, axis.zone);
    return { label: v => words(v), ...made };
  }

  return { number, scaleOf, words };
})();
