"use strict";
// Colours and markers of charts.
const paint = (() => {
  // Colours are custom properties, which follow the scheme.

  const probe = document.createElement("span");
  function colour(name) {
    probe.style.color = `var(${name})`;
    if (!probe.isConnected) { probe.hidden = true; document.body.append(probe); }
    return getComputedStyle(probe).color;
  }

  const MARKERS = [
    (p, x, y, r) => p.arc(x, y, r, 0, 2 * Math.PI),
    (p, x, y, r) => p.rect(x - r, y - r, 2 * r, 2 * r),
    (p, x, y, r) => { p.moveTo(x, y - 1.3 * r); p.lineTo(x + 1.2 * r, y + r); p.lineTo(x - 1.2 * r, y + r); p.closePath(); },
    (p, x, y, r) => { p.moveTo(x, y - 1.4 * r); p.lineTo(x + 1.4 * r, y); p.lineTo(x, y + 1.4 * r); p.lineTo(x - 1.4 * r, y); p.closePath(); },
  ];

  // A marker of the shape with that number.
  function marker(ctx, shape, x, y, r) {
    ctx.beginPath();
    MARKERS[shape % MARKERS.length](ctx, x, y, r);
    ctx.fill();
  }

  function faint(rgb, alpha) { return rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`); }

  return { colour, faint, marker };
})();
