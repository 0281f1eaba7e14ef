"use strict";
// Tables whose cells say more than they show: by pointer, touch and arrow keys.
//
// A <table role="grid" data-cells> has its words in the data-words of each cell; they stand in the
// <output> of the same figure too. chosen(cell) is called at a click, Enter or the space bar.
const cells = (() => {
  const STEPS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

  const begun = new WeakSet();

  // Again for a table whose rows are new ones.
  function attach(table, chosen) {
    const output = table.closest("figure").querySelector("output");
    const all = () => [...table.querySelectorAll("td[data-words]")];
    for (const [i, cell] of all().entries()) cell.tabIndex = i ? -1 : 0;

    function read(cell) {
      for (const other of all()) other.tabIndex = -1;
      cell.tabIndex = 0;
      output.value = cell.dataset.words;
    }

    // The next cell in that direction; places without one are passed over.
    function beside(cell, [down, right]) {
      for (let row = cell.parentNode.sectionRowIndex + down, column = cell.cellIndex + right; ; row += down, column += right) {
        const place = table.tBodies[0].rows[row]?.cells[column];
        if (!place) return null;
        if (place.dataset.words !== undefined) return place;
      }
    }

    table.onpointerover = event => { const cell = event.target.closest("td[data-words]"); if (cell) output.value = cell.dataset.words; };
    if (!begun.has(table)) table.addEventListener("focusin", event => { const cell = event.target.closest("td[data-words]"); if (cell) read(cell); });
    begun.add(table);
    table.onclick = event => { const cell = event.target.closest("td[data-words]"); if (cell) { cell.focus(); chosen?.(cell); } };
    table.onkeydown = event => {
      const cell = event.target.closest("td[data-words]");
      if (!cell) return;
      if (STEPS[event.key]) beside(cell, STEPS[event.key])?.focus();
      else if (event.key === "Enter" || event.key === " ") chosen?.(cell);
      else return;
      event.preventDefault();
    };
  }

  for (const table of document.querySelectorAll("table[data-cells]")) attach(table);
  return { attach };
})();
