// A canvas that is as wide as its place and sharp on every screen.

export const FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

export function makeCanvas(parent, label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  parent.append(canvas);
  return canvas;
}

/** The canvas cleared and scaled to `width` x `height` CSS pixels: its 2d context. */
export function prepared(canvas, width, height) {
  const ratio = Math.max(1, window.devicePixelRatio || 1);
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}

export function say(ctx, text, x, y, color, { size = 12, bold = false, align = "left", font = FONT } = {}) {
  ctx.font = `${bold ? "600 " : ""}${size}px ${font}`;
  ctx.textAlign = align;
  ctx.textBaseline = "alphabetic";
  ctx.fillStyle = color;
  ctx.fillText(text, x, y);
  return ctx.measureText(text).width;
}

/** The first of some wordings that `room` pixels hold, else the last. */
export function sayFitting(ctx, wordings, x, y, room, color, { size = 12 } = {}) {
  ctx.font = `600 ${size}px ${FONT}`;
  const words = wordings.find((wording) => ctx.measureText(wording).width <= room) ?? wordings.at(-1);
  say(ctx, words, x, y, color, { size, bold: true });
}

/** A text in lines of at most `room` pixels. Returns the baseline of the next line. */
export function sayLines(ctx, text, x, y, room, color, { size = 11 } = {}) {
  ctx.font = `${size}px ${FONT}`;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (ctx.measureText(longer).width <= room) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  lines.forEach((line, i) => say(ctx, line, x, y + 14 * i, color, { size }));
  return y + 14 * lines.length;
}

/** A slit across a bar that is longer than its scale. It ends at (x, y) and points to (across, down), a unit vector. */
export function slit(ctx, x, y, across, down, thick, paper) {
  const reach = thick / 2 + 1;
  ctx.strokeStyle = paper;
  ctx.lineWidth = 2;
  ctx.beginPath();
  ctx.moveTo(x - 7 * across - reach * down, y - 7 * down - reach * across);
  ctx.lineTo(x - 4 * across + reach * down, y - 4 * down + reach * across);
  ctx.stroke();
}

/** The number of one of the five steps in a disc whose left edge is at x, as in the diagrams. Returns its width. */
export function numbered(ctx, step, x, y, color, paper) {
  ctx.fillStyle = color;
  ctx.beginPath();
  ctx.arc(x + 7.5, y - 4.5, 7.5, 0, 2 * Math.PI);
  ctx.fill();
  say(ctx, step, x + 7.5, y - 0.5, paper, { size: 11, bold: true, align: "center" });
  return 15;
}

export function roundRect(ctx, x, y, width, height, radius) {
  ctx.beginPath();
  ctx.roundRect(x, y, width, height, radius);
}
