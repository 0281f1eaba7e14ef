"use strict";
// The figures of an audit: the curve, the errors and the heat map of the cell that is chosen.
//
// A cell: q(uantity), d(type), y: target, g(amma); limit in ULP; smallest: positive number of the
// dtype; cliff: the smallest |logit| that isn't finite; worst; points, certified; heat: the worst error of each run of logits, negative for none;
// curve: [logit, computed, true, error]. null: not finite.
(() => {
  const { edges, reports } = JSON.parse(document.getElementById("cells").textContent);
  const KEYS = ["q", "d", "y", "g"];

  const ulp = error => (error === null ? "not finite" : `${scales.words(error, 3)} ULP`);

  function named(cell) {
    return `${cell.q}, ${cell.d}, target ${cell.y}, gamma ${cell.g}`;
  }

  function verdict(cell) {
    return `worst error ${ulp(cell.worst)}, of ${cell.points} logits, ${cell.certified ? "all there are" : "sampled"}`;
  }

  // The runs of logits that aren't finite, from the cliff if one begins or ends there.
  function gaps(cell) {
    const found = [], cliff = cell.cliff;
    cell.curve.forEach(([logit, computed], i) => {
      const before = cell.curve[i - 1];
      if (computed !== null) {
        if (before && before[1] === null && before[0] <= cliff && cliff < logit) found.at(-1).high = cliff;
      } else if (before && before[1] === null) found.at(-1).high = logit;
      else found.push({ axis: "x", low: before && before[0] < cliff && cliff < logit ? cliff : logit, high: logit, words: "not finite" });
    });
    return found;
  }

  // The scale is logarithmic. What the dtype has no number for, and 0, have a strip of their own.
  function drawCurve(figure, cell) {
    const values = cell.curve.flatMap(([, computed, truth]) => [computed, truth]).filter(v => v !== null);
    const sizes = values.map(Math.abs).filter(v => v > 0);
    const isUnder = sizes.some(v => v < cell.smallest), hasZero = values.includes(0);
    const floor = isUnder ? cell.smallest : 10 ** Math.floor(Math.log10(Math.min(...sizes)));
    const sign = values.some(v => v > 0) || !values.some(v => v < 0) ? 1 : -1;
    const isTwoSided = sign > 0 && values.some(v => v < 0);
    const isLog = !isUnder && !hasZero && !isTwoSided;
    const decades = Math.log10(Math.max(...sizes) / floor);
    const strip = isUnder ? `under the smallest ${cell.d}, ${scales.words(cell.smallest, 2)}` : "0";
    const broken = gaps(cell), bands = [...broken];
    if (!isLog) bands.push({ axis: "y", low: isTwoSided ? -floor : 0, high: floor, words: strip });
    const signed = v => (v === null ? null : sign * v);
    const spec = {
      label: `${named(cell)}: what the loss gives on what is true; ${verdict(cell)}.` +
        (broken.length ? ` Not finite: logits ${broken.map(band => `${band.low} to ${band.high}`).join(", ")}.` : "") +
        (isLog ? "" : ` ${isTwoSided ? "In the middle" : "At the bottom"} a strip: ${strip}.`),
      x: { title: "logit" },
      y: { title: `${sign < 0 ? "−" : ""}${cell.q}`, scale: isLog ? "log" : "symlog", threshold: floor, zone: Math.max(1, 0.1 * decades) },
      lines: [{ colour: "--of-true", style: "broad" }, { colour: "--of-exact" }],
      bands,
    };
    const minus = sign < 0 ? "−" : "";
    chart.draw(figure, spec, {
      names: ["logit", `${minus}true`, `${minus}given`], x: cell.curve.map(p => p[0]),
      lines: [cell.curve.map(p => signed(p[2])), cell.curve.map(p => signed(p[1]))],
    });
  }

  function drawErrors(figure, cell) {
    chart.draw(figure, {
      label: `${named(cell)}: errors in ULP; ${verdict(cell)}.`,
      x: { title: "logit" }, y: { title: "error in ULP", scale: "symlog", threshold: 0.1 },
      lines: [{ colour: "--of-exact", style: "points" }],
      levels: [{ y: cell.limit, words: `limit ${cell.limit} ULP` }], bands: gaps(cell), height: 220,
    }, {
      names: ["logit", "error in ULP"], x: cell.curve.map(p => p[0]),
      lines: [cell.curve.map(p => (p[3] === null ? null : p[3] < 0 ? undefined : p[3]))],
    });
  }

  function drawHeat(table, all, cell, choose) {
    const rows = all.filter(c => c.q === cell.q && c.d === cell.d && c.y === cell.y).sort((a, b) => a.g - b.g);
    const key = [cell.q, cell.d, cell.y].join();
    if (table.dataset.key !== key) {
      const heads = edges.map(e => `<th scope="col">${e === null ? "∞" : String(e).replace("-", "−")}`);
      table.tHead.innerHTML = `<tr><th scope="col">gamma${heads.join("")}`;
      table.tBodies[0].innerHTML = rows.map(row => {
        const places = row.heat.map((error, i) => {
          if (error !== null && error < 0) return "<td>";
          const above = error === null ? Infinity : Math.log10(error / row.limit);
          const colour = above <= 0 ? "unharmed" : `heat-${error === null ? 0 : Math.max(1, 6 - Math.floor(above))}`;
          const sign = error === null ? "×" : above > 0 ? Math.ceil(above) : "";
          return `<td class="${colour}" data-gamma="${row.g}" data-words="gamma ${row.g}, logit up to ${edges[i] ?? "infinity"}: ${ulp(error)}">${sign}`;
        });
        return `<tr><th scope="row">${row.g}${places.join("")}`;
      }).join("");
      table.dataset.key = key;
      cells.attach(table, place => choose({ ...cell, g: Number(place.dataset.gamma) }));
    }
    rows.forEach((row, i) => table.tBodies[0].rows[i].classList.toggle("chosen", row === cell));
  }

  // The cell that has as many as can be of what is wanted.
  function nearest(all, want) {
    return KEYS.reduce((found, key) => {
      const some = found.filter(cell => cell[key] === want[key]);
      return some.length ? some : found;
    }, all)[0];
  }

  function show(look, all, cell) {
    const choose = want => show(look, all, nearest(all, want));
    for (const select of look.querySelectorAll("select")) {
      const { key } = select.dataset;
      select.replaceChildren(...[...new Set(all.map(c => c[key]))].map(v => new Option(v, JSON.stringify(v))));
      select.value = JSON.stringify(cell[key]);
      select.onchange = () => choose({ ...cell, [key]: JSON.parse(select.value) });
    }
    look.querySelector(".cell").textContent = `${named(cell)}: ${verdict(cell)}.`;
    drawCurve(look.querySelector(".curve"), cell);
    drawErrors(look.querySelector(".ulp"), cell);
    drawHeat(look.querySelector(".heat"), all, cell, choose);
  }

  for (const look of document.querySelectorAll(".look")) {
    const of = reports[look.dataset.report];
    look.hidden = false;
    show(look, of, nearest(of, { q: "gradient", d: "float32", y: 1, g: 0.5 }));
  }
})();
