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
