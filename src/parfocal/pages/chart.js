"use strict";
// Lines that answer to a pointer, a touch and keys, drawn by uPlot.
//
// A <figure data-chart="..."> holds a caption and, in <details>, a table of its numbers, which is the
// data: a column a line, a row a place on x. An empty cell is no data, a number in words (NaN,
// inf) is a gap, "1 [0, 2]" a value with its interval. The attribute is JSON:
//
//   label       what the figure shows, in sentences: the text alternative
//   x, y        {title, scale: "linear" | "log" | "symlog" | "category", threshold, zone}
//               symlog is linear under the size `threshold`, which is as wide as `zone` decades
//   lines       one a column: {group, colour, style}; group: its entry of the legend (its name if
//               none is given); colour: a custom property, "--of-exact"; style: "line" (if none is
//               given), "broad", "points" or "interval"
//   bands       [{axis: "x" | "y", low, high, words}], shaded; null: open-ended
//   marks       [{x, y, words, line}], crosses; line: the number of the line that it belongs to
//   levels      [{y, words}], dashed lines from side to side
//   height      in pixels
//
// draw(figure, spec, columns) draws other numbers there: columns = {names, x, lines}. names begin
// with that of x; a line is an array of numbers, null (a gap) and undefined (no data).
const chart = (() => {
  const { number, scaleOf, words } = scales, { colour, faint, marker } = paint;
  const DASHES = [[], [9, 5], [2, 4], [14, 4, 2, 4], [5, 3], [1, 3]];
  const COLOURS = 8, MOST_NAMED = 6, MARKER_SPACE = 90;
  const drawn = new Map();

  // The numbers of a figure, from its table.

  function read(figure) {
    const rows = [...figure.querySelector("table").rows].map(row => [...row.cells].map(cell => cell.textContent.trim()));
    const names = rows.shift(), cells = rows.map(row => row.slice(1));
    const at = column => cells.map(row => (row[column] ?? "").replace(/[[\],]/g, " ").trim().split(/\s+/).map(number));
    const all = names.slice(1).map((_, i) => at(i));
    return {
      names, labels: rows.map(row => row[0]), x: rows.map(row => number(row[0])),
      lines: all.map(line => line.map(parts => parts[0])), ends: all.map(line => line.map(parts => parts.slice(1))),
    };
  }

  function write(figure, columns) {
    const table = figure.querySelector("table");
    const row = (cells, tag) => cells.map((text, i) => `<${i && tag !== "th" ? "td" : `th scope="${tag === "th" ? "col" : "row"}"`}>${text}`).join("");
    const escaped = columns.names.map(name => name.replace(/[&<]/g, c => (c === "&" ? "&amp;" : "&lt;")));
    const shown = v => (v === undefined ? "" : v === null ? "NaN" : v);
    table.tHead.innerHTML = `<tr>${row(escaped, "th")}`;
    table.tBodies[0].innerHTML = columns.x.map((x, i) => `<tr>${row([x, ...columns.lines.map(line => shown(line[i]))], "td")}`).join("");
  }

  function element(parent, tag, attributes, text) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  // A figure: its frame is made once; each drawing replaces what is in it.

  function frame(figure) {
    const box = document.createElement("div");
    box.className = "chart";
    const caption = figure.querySelector("figcaption");
    if (caption) caption.after(box); else figure.prepend(box);
    const head = element(box, "div", { class: "chart-head" });
    const parts = { box, title: element(head, "span", { class: "axis-title" }) };
    const tools = element(head, "span", { class: "tools" });
    parts.buttons = [["+", "zoom in"], ["−", "zoom out"], ["all", "zoom: show all"]].map(([sign, label], i) =>
      element(tools, "button", { type: "button", "aria-label": label, title: `${label} (key ${"+-0"[i]})` }, sign));
    parts.plot = element(box, "div", { class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart" });
    parts.below = element(box, "p", { class: "axis-title below" });
    parts.readout = element(box, "p", { class: "readout", "aria-live": "polite" });
    parts.legend = element(box, "div", { class: "legend", role: "group", "aria-label": "lines" });
    return parts;
  }

  function draw(figure, spec, columns) {
    const before = drawn.get(figure);
    before?.end();
    const parts = before?.parts || frame(figure);
    const made = plotted(figure, spec, columns || read(figure), parts);
    drawn.set(figure, made);
    return made;
  }

  function plotted(figure, spec, columns, parts) {
    const { names } = columns, labels = columns.labels || columns.x.map(String);
    const isCategory = spec.x.scale === "category";
    const xs = isCategory ? columns.x.map((_, i) => i) : columns.x;
    const along = { x: scaleOf(spec.x, labels), y: scaleOf(spec.y) };
    const place = (axis, value) => (value === null || value === undefined ? value : along[axis].place(value));
    const count = columns.lines.length;
    const groups = [...new Set(columns.lines.map((_, i) => group(i)))];
    const hidden = new Set();
    let at = -1, selected = 0;

    function line(i) { return (spec.lines || [])[i] || {}; }
    function group(i) { return line(i).group || names[i + 1]; }
    function rank(i) { return groups.indexOf(group(i)); }
    function shade(i) { return line(i).colour || `--line-${Math.floor(rank(i) * (COLOURS - 1) / Math.max(1, groups.length - 1))}`; }
    function style(i) { return line(i).style || "line"; }
    function isShown(i) { return !hidden.has(group(i)); }
    function pixels(i) { return style(i) === "broad" ? 7 : groups.length > MOST_NAMED ? 1.3 : 2; }

    // uPlot asks for ascending x.
    const order = xs.map((_, i) => i).filter(i => place("x", xs[i]) != null).sort((a, b) => xs[a] - xs[b]);
    const data = [order.map(i => place("x", xs[i])), ...columns.lines.map(one => order.map(i => place("y", one[i])))];
    const value = (i, index) => columns.lines[i][order[index]];
    const ends = (i, index) => columns.ends?.[i][order[index]] || [];

    function extent(axis, values) {
      const found = values.filter(v => v !== null && v !== undefined && Number.isFinite(v));
      if (isCategory && axis === "x") return [-0.5, xs.length - 0.5];
      let low = Infinity, high = -Infinity;
      for (const v of found) { low = Math.min(low, v); high = Math.max(high, v); }
      if (low > high) [low, high] = [0, 1];
      const margin = 0.04 * (high - low || 1);
      return [low - margin, high + margin];
    }
    const marks = (spec.marks || []).filter(m => place("x", m.x) != null && place("y", m.y) != null);
    const whole = {
      x: extent("x", [...data[0], ...marks.map(m => place("x", m.x))]),
      y: extent("y", [
        ...data.slice(1).flat(), ...marks.map(m => place("y", m.y)), ...(spec.levels || []).map(l => place("y", l.y)),
        ...(columns.ends || []).flat(2).map(v => place("y", v)),
        ...(spec.y.scale === "symlog" && (spec.bands || []).some(b => b.axis === "y") ? [0] : []),
      ]),
    };
    let view = structuredClone(whole);

    const opts = {
      ...size(), legend: { show: false }, padding: [8, 12, 0, 0],
      cursor: {
        y: false, drag: { x: true, y: true, uni: 30, setScale: false }, focus: { prox: 24 },
        points: { show: false }, bind: { dblclick: () => () => { show(whole); return null; } },
      },
      scales: { x: { time: false, range: () => view.x }, y: { range: () => view.y } },
      axes: ["x", "y"].map(axis => ({
        stroke: () => colour("--dim"), font: "12px system-ui, sans-serif",
        grid: { stroke: () => colour("--rule"), width: 1 }, ticks: { stroke: () => colour("--rule"), size: 4 },
        size: axis === "x" ? 30 : 60,
        splits: u => {
          const long = axis === "x" ? u.width : u.height, [low, high] = view[axis].map(along[axis].value);
          return along[axis].ticks(low, high, Math.max(3, Math.floor(long / (axis === "x" ? 70 : 40)))).map(along[axis].place);
        },
        values: (u, splits) => spaced(axis, u, splits),
      })),
      series: [{}, ...columns.lines.map((_, i) => ({
        stroke: () => (style(i) === "broad" ? faint(colour(shade(i)), 0.35) : colour(shade(i))),
        width: pixels(i), dash: style(i) === "line" && groups.length <= DASHES.length ? DASHES[rank(i)] : [],
        points: { show: false }, spanGaps: false,
        ...(["points", "interval"].includes(style(i)) ? { paths: () => null } : {}),
      }))],
      focus: { alpha: 0.25 },
      hooks: { drawClear: [bands], draw: [over, lettering], setCursor: [u => { if (u.cursor.idx !== null && u.cursor.left >= 0) { at = u.cursor.idx; nearest(u); say(); } }], setSelect: [zoomed] },
    };

    function size() { return { width: Math.max(240, Math.floor(parts.box.clientWidth)), height: spec.height || 280 }; }

    // Names of a scale that would run into each other are left out.
    function spaced(axis, u, splits) {
      let last = -Infinity;
      return splits.map(p => {
        const label = along[axis].label(along[axis].value(p)), at = u.valToPos(p, axis) * (axis === "x" ? 1 : -1);
        if (at - last < (axis === "x" ? 7 * label.length + 8 : 14) && last > -Infinity) return "";
        last = at;
        return label;
      });
    }

    // The rectangle of a band in pixels of the canvas; null if it is out of view.
    function rectangle(u, { axis, low, high }) {
      const { left, top, width, height } = u.bbox, [first, last] = view[axis];
      const ends = [low, high].map((v, i) => (v === null || v === undefined ? view[axis][i] : place(axis, v)));
      if (Math.max(...ends) < first || Math.min(...ends) > last) return null;
      const [a, b] = ends.map(v => u.valToPos(Math.min(Math.max(v, first), last), axis, true));
      const thick = Math.max(Math.abs(b - a), 2 * devicePixelRatio);
      return axis === "x" ? [Math.min(a, b), top, thick, height] : [left, Math.min(a, b), width, thick];
    }

    function bands(u) {
      const { ctx } = u, { left, top, width, height } = u.bbox, ratio = devicePixelRatio;
      ctx.save();
      for (const band of spec.bands || []) {
        const box = rectangle(u, band);
        ctx.fillStyle = faint(colour(band.colour || "--bad"), 0.14);
        if (box) ctx.fillRect(...box);
      }
      ctx.setLineDash([6 * ratio, 4 * ratio]);
      ctx.lineWidth = 1.5 * ratio;
      for (const level of spec.levels || []) {
        const y = u.valToPos(place("y", level.y), "y", true);
        if (y < top || y > top + height) continue;
        ctx.strokeStyle = colour("--bad");
        ctx.beginPath(); ctx.moveTo(left, y); ctx.lineTo(left + width, y); ctx.stroke();
      }
      ctx.restore();
    }

    // The words of bands and levels, on all else.
    function lettering(u) {
      const { ctx } = u, { left } = u.bbox, ratio = devicePixelRatio;
      ctx.save();
      ctx.font = `${12 * ratio}px system-ui, sans-serif`;
      ctx.lineJoin = "round";
      ctx.lineWidth = 4 * ratio;
      ctx.strokeStyle = colour("--back");
      ctx.fillStyle = colour("--ink");
      ctx.setLineDash([]);
      const letter = (words, x, y) => { ctx.strokeText(words, x, y); ctx.fillText(words, x, y); };
      ctx.textAlign = "center"; ctx.textBaseline = "middle";
      for (const band of spec.bands || []) {
        const box = rectangle(u, band);
        if (!box || !band.words) continue;
        ctx.save();
        const isTurned = band.axis === "x" && ctx.measureText(band.words).width > box[2];
        ctx.translate(box[0] + box[2] / 2, box[1] + (band.axis === "x" && !isTurned ? 14 * ratio : box[3] / 2));
        if (isTurned) ctx.rotate(-Math.PI / 2);
        letter(band.words, 0, 0);
        ctx.restore();
      }
      ctx.textAlign = "left"; ctx.textBaseline = "bottom";
      for (const level of spec.levels || []) letter(level.words, left + 6 * ratio, u.valToPos(place("y", level.y), "y", true) - 3 * ratio);
      ctx.restore();
    }

    // Lines that lie under each other have their markers at different places.
    function over(u) {
      const { ctx } = u, ratio = devicePixelRatio, { left, top, width, height } = u.bbox;
      ctx.save();
      ctx.setLineDash([]);
      ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
      for (let i = 0; i < count; i++) {
        if (!isShown(i) || style(i) === "broad") continue;
        ctx.fillStyle = ctx.strokeStyle = colour(shade(i));
        const isSparse = style(i) === "line", shift = (rank(i) + 0.5) / groups.length * MARKER_SPACE * ratio;
        if (isSparse && (groups.length > MOST_NAMED || groups.length === 1 && data[0].length > 2)) continue;
        let last = left + shift - MARKER_SPACE * ratio;
        data[i + 1].forEach((p, index) => {
          if (p === null || p === undefined) return;
          const x = u.valToPos(data[0][index], "x", true) + (style(i) === "interval" ? (rank(i) - (groups.length - 1) / 2) * 9 * ratio : 0);
          if (isSparse && x - last < MARKER_SPACE * ratio && data[0].length > 2) return;
          last = x;
          const [low, high] = ends(i, index);
          if (low !== undefined) {
            ctx.lineWidth = 1.6 * ratio; ctx.beginPath();
            ctx.moveTo(x, u.valToPos(place("y", low), "y", true)); ctx.lineTo(x, u.valToPos(place("y", high), "y", true)); ctx.stroke();
          }
          marker(ctx, rank(i), x, u.valToPos(p, "y", true), (style(i) === "points" ? 2.2 : 3.6) * ratio);
        });
      }
      ctx.lineWidth = 2.5 * ratio;
      for (const mark of marks) {
        if (mark.line !== undefined && !isShown(mark.line)) continue;
        const x = u.valToPos(place("x", mark.x), "x", true), y = u.valToPos(place("y", mark.y), "y", true), r = 5 * ratio;
        ctx.strokeStyle = colour("--bad");
        ctx.beginPath(); ctx.moveTo(x - r, y - r); ctx.lineTo(x + r, y + r); ctx.moveTo(x - r, y + r); ctx.lineTo(x + r, y - r); ctx.stroke();
      }
      if (at >= 0 && at < data[0].length) {
        const x = u.valToPos(data[0][at], "x", true);
        for (let i = 0; i < count; i++) {
          const p = data[i + 1][at];
          if (!isShown(i) || p === null || p === undefined || style(i) === "interval" || (groups.length > MOST_NAMED && i !== selected)) continue;
          ctx.fillStyle = colour("--back"); marker(ctx, 0, x, u.valToPos(p, "y", true), 5.5 * ratio);
          ctx.fillStyle = colour(shade(i)); marker(ctx, 0, x, u.valToPos(p, "y", true), 4 * ratio);
        }
      }
      ctx.restore();
    }

    // What stands at the cursor, in words.

    function nearest(u) {
      let least = Infinity;
      for (let i = 0; i < count; i++) {
        const p = data[i + 1][at];
        if (!isShown(i) || p === null || p === undefined) continue;
        const away = Math.abs(u.valToPos(p, "y") - u.cursor.top);
        if (away < least) [least, selected] = [away, i];
      }
    }

    function said(i) {
      const [low, high] = ends(i, at);
      const text = words(value(i, at), 5);
      return `${names[i + 1]} = ${text}${low === undefined ? "" : ` (${words(low)} to ${words(high)})`}`;
    }

    function say() {
      const label = isCategory ? labels[order[at]] : words(xs[order[at]], 6);
      const all = [...Array(count).keys()].filter(i => isShown(i) && value(i, at) !== undefined);
      const told = count > MOST_NAMED + 2 ? all.filter(i => i === selected) : all;
      const rest = told.length < all.length ? ` (↑ ↓: ${all.length - told.length} more)` : "";
      parts.readout.textContent = `${spec.x.title} ${label}: ${told.map(said).join("; ") || "no data"}${rest}`;
      plot.redraw(false);
    }

    function rest() {
      at = -1;
      parts.readout.textContent = "Point at it, touch it, or use the arrow keys: the numbers stand here. Drag to zoom; 0 shows all.";
    }

    // Zoom.

    function show(next) {
      view = structuredClone(next);
      plot.batch(() => { for (const axis of ["x", "y"]) plot.setScale(axis, { min: view[axis][0], max: view[axis][1] }); });
    }

    function zoomed(u) {
      const { left, top, width, height } = u.select;
      if (width < 4 && height < 4) return;
      const next = structuredClone(view);
      if (width >= 4) next.x = [left, left + width].map(p => u.posToVal(p, "x"));
      if (height >= 4) next.y = [top + height, top].map(p => u.posToVal(p, "y"));
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      show(next);
    }

    function zoom(factor) {
      const next = structuredClone(view);
      const centre = at >= 0 ? data[0][at] : (view.x[0] + view.x[1]) / 2;
      next.x = view.x.map(v => centre + (v - centre) * factor);
      next.x = [Math.max(next.x[0], whole.x[0]), Math.min(next.x[1], whole.x[1])];
      show(next);
    }

    function key(event) {
      const far = event.shiftKey ? 10 : 1, last = data[0].length - 1;
      const from = at < 0 ? (event.key === "ArrowLeft" ? last + far : -far) : at;
      const to = { ArrowRight: from + far, ArrowLeft: from - far, Home: 0, End: last }[event.key];
      if (to !== undefined && last >= 0) {
        at = Math.min(Math.max(to, 0), last);
        if (data[0][at] < view.x[0] || data[0][at] > view.x[1]) {
          const half = (view.x[1] - view.x[0]) / 2;
          show({ x: [data[0][at] - half, data[0][at] + half], y: view.y });
        }
        say();
      } else if (["ArrowUp", "ArrowDown"].includes(event.key)) {
        const shown = [...Array(count).keys()].filter(i => isShown(i) && value(i, at) !== undefined);
        if (at < 0 || !shown.length) return;
        const step = event.key === "ArrowDown" ? 1 : -1;
        selected = shown[(shown.indexOf(selected) + step + shown.length) % shown.length];
        say();
      } else if (event.key === "+" || event.key === "=") zoom(0.5);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0" || event.key === "Escape") { show(whole); rest(); plot.redraw(false); }
      else return;
      event.preventDefault();
    }

    function touched(event) {
      if (event.pointerType !== "touch") return;
      const box = plot.over.getBoundingClientRect();
      plot.setCursor({ left: event.clientX - box.left, top: event.clientY - box.top });
    }

    // The legend: a button a group, with a sample of its line.

    function sample(button, i) {
      const width = 34, ratio = devicePixelRatio, canvas = element(button, "canvas", { width: width * ratio, height: 12 * ratio, "aria-hidden": "true" });
      return () => {
        const ctx = canvas.getContext("2d"), y = 6 * ratio, name = colour(shade(i));
        ctx.clearRect(0, 0, canvas.width, canvas.height);
        ctx.strokeStyle = style(i) === "broad" ? faint(name, 0.35) : name;
        ctx.fillStyle = name;
        ctx.lineWidth = pixels(i) * ratio;
        if (style(i) === "line" || style(i) === "broad") {
          ctx.setLineDash(style(i) === "line" && groups.length <= DASHES.length ? DASHES[rank(i)].map(v => v * ratio) : []);
          ctx.beginPath(); ctx.moveTo(0, y); ctx.lineTo(canvas.width, y); ctx.stroke();
        }
        if (style(i) !== "broad" && (style(i) !== "line" || groups.length > 1 && groups.length <= MOST_NAMED)) marker(ctx, rank(i), canvas.width / 2, y, 3.6 * ratio);
      };
    }

    parts.legend.replaceChildren();
    const samples = groups.map(name => {
      const i = columns.lines.findIndex((_, n) => group(n) === name);
      const button = element(parts.legend, "button", { type: "button", "aria-pressed": "true" });
      const fill = sample(button, i);
      element(button, "span", {}, name);
      button.onclick = () => {
        if (!hidden.delete(name)) hidden.add(name);
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        plot.batch(() => columns.lines.forEach((_, n) => plot.setSeries(n + 1, { show: isShown(n) })));
      };
      return fill;
    });

    parts.title.textContent = `↑ ${spec.y.title}`;
    parts.below.textContent = `${spec.x.title} →`;
    parts.plot.setAttribute("aria-label", `${spec.label} Arrow keys read the numbers, plus and minus zoom, 0 shows all.`);
    parts.plot.replaceChildren();
    const plot = new uPlot(opts, data, parts.plot);
    for (const canvas of parts.plot.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
    samples.forEach(fill => fill());
    rest();
    parts.plot.onkeydown = key;
    parts.plot.onpointerdown = parts.plot.onpointermove = touched;
    [() => zoom(0.5), () => zoom(2), () => { show(whole); rest(); plot.redraw(false); }].forEach((act, i) => { parts.buttons[i].onclick = act; });
    const details = figure.querySelector("details");
    if (columns.labels === undefined && details) {
      const fill = () => { if (details.open) write(figure, columns); };
      details.ontoggle = fill;
      fill();
    }
    const observer = new ResizeObserver(() => { const next = size(); if (next.width !== plot.width) plot.setSize(next); });
    observer.observe(parts.box);
    return {
      parts, plot,
      repaint: () => { plot.redraw(false); samples.forEach(fill => fill()); },
      end: () => { observer.disconnect(); plot.destroy(); },
    };
  }

  // Another scheme: other colours.
  const repaint = () => drawn.forEach(one => one.repaint());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  matchMedia("print").addEventListener("change", repaint);
  new MutationObserver(repaint).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

  for (const figure of document.querySelectorAll("figure[data-chart]")) draw(figure, JSON.parse(figure.dataset.chart));
  return { draw };
})();
