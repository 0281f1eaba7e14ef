"use strict";
// What every page does: tables that are wider than their place say so, and code is copied.
const page = (() => {
  function hint(box) { box.classList.toggle("wider", box.scrollWidth > box.clientWidth + 1); }

  // Without the right to the clipboard (a page of http) the code is marked instead.
  async function copy(block) {
    try {
      await navigator.clipboard.writeText(block.textContent.trim());
    } catch {
      getSelection().selectAllChildren(block);
    }
  }

  const sizes = new ResizeObserver(found => found.forEach(one => hint(one.target.closest(".scroll"))));
  for (const box of document.querySelectorAll(".scroll")) { sizes.observe(box); if (box.firstElementChild) sizes.observe(box.firstElementChild); }
  for (const details of document.querySelectorAll("details"))
    details.addEventListener("toggle", () => details.querySelectorAll(".scroll").forEach(hint));

  for (const block of document.querySelectorAll("pre[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "copy";
    button.onclick = async () => {
      await copy(block);
      button.textContent = getSelection().containsNode(block, true) ? "marked" : "copied";
      setTimeout(() => { button.textContent = "copy"; }, 2000);
    };
    block.after(button);
  }
  return { hint };
})();
