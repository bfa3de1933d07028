// The desk: the same text, kept by attention. One column per token, beside the matrices that never grow. Both are drawn
// to one scale: a dot is a number that has to be kept.
import { prepared, say, sayFitting, sayLines } from "./canvas.js";
import { clamp, count, mix } from "./numbers.js";
import { alpha, signed, channels } from "./palette.js";

export function drawDesk(canvas, frame) {
  const { t, colors, width, cache, states } = frame;
  const tokens = cache.tokens;
  const rows = cache.rows; // numbers per token
  // A figure of bytes under each picture, in bold: narrower, the two would touch.
  const left = states ? Math.max(94, Math.round(width * 0.3)) : 0;
  const dot = Math.max(0.6, Math.min(1.6, (width - left - 26) / tokens));
  const tall = rows * dot;
  const top = 40;
  // The memory's matrices, and what is left of its bytes: the last inputs of its convolution, and other memories.
  const copies = states?.[0].S ? 2 : 1;
  const rest = states ? frame.memoryBytes[t + 1] / 4 - copies * states.length * frame.m * frame.f : 0;
  const restTall = states ? (rest / copies / frame.f) * dot : 0;
  const low = Math.max(tall, states ? states.length * frame.m * dot + 1 + restTall : 0);
  const height = top + low + (states ? (width < 360 ? 74 : 60) : 44);
  const ctx = prepared(canvas, width, height);
  const read = t + 1;
  // Attention: a column per token.
  const x = left + 26;
  const headings = ["attention keeps every token", "attention: every token", "attention"];
  sayFitting(ctx, headings, x, 16, width - x, colors.memories.attention, { size: 13 });
  say(ctx, "a column for each byte read", x, 31, colors.soft, { size: 11 });
  ctx.drawImage(cacheImage(cache, colors), 0, 0, read, rows, x, top, read * dot, tall);
  ctx.strokeStyle = colors.faint;
  ctx.lineWidth = 1;
  ctx.strokeRect(x - 0.5, top - 0.5, tokens * dot + 1, tall + 1);
  sayUpward(ctx, "keys", x - 5, top + tall / 4, colors.key);
  sayUpward(ctx, "values", x - 5, top + (3 * tall) / 4, colors.value);
  ctx.fillStyle = colors.ink;
  ctx.fillRect(x + read * dot - 1, top - 3, 2, tall + 6);
  const line = top + low + 18;
  const grown = frame.attentionBytes;
  say(ctx, `${count(grown[t + 1])} bytes`, x, line, colors.ink, { size: 15, bold: true });
  say(ctx, `+${count(grown[t + 1] - grown[t])} per byte read`, x, line + 16, colors.soft, { size: 11 });
  if (!states) return height;
  // The memory: the matrices of all heads, as many dots as numbers.
  say(ctx, frame.label, 0, 16, colors.memories[frame.name] ?? colors.ink, { size: 13, bold: true });
  say(ctx, "one size for ever", 0, 31, colors.soft, { size: 11 });
  let y = top;
  ctx.imageSmoothingEnabled = false;
  for (const { W, S } of states) {
    ctx.drawImage(W, 0, y, frame.f * dot, frame.m * dot);
    if (S) ctx.drawImage(S, frame.f * dot, y, frame.f * dot, frame.m * dot);
    y += frame.m * dot;
  }
  ctx.fillStyle = alpha(colors.soft, 0.35);
  ctx.fillRect(0, y + 1, copies * frame.f * dot, restTall);
  y += 1 + restTall;
  ctx.strokeStyle = colors.faint;
  ctx.strokeRect(-0.5, top - 0.5, copies * frame.f * dot + 1, y - top + 1);
  say(ctx, `${count(frame.memoryBytes[t + 1])} bytes`, 0, line, colors.ink, { size: 15, bold: true });
  say(ctx, "always", 0, line + 16, colors.soft, { size: 11 });
  const matrices = copies === 2 ? "left: memory W of each head · right: its last write" : "memory W of each head";
  sayLines(ctx, `${matrices} · gray: the rest`, 0, line + 36, width, colors.soft);
  return height;
}

/** A short text that runs upward and is centered on y, its baseline at x. */
function sayUpward(ctx, text, x, y, color) {
  ctx.save();
  ctx.translate(x, y);
  ctx.rotate(-Math.PI / 2);
  say(ctx, text, 0, 0, color, { size: 11, bold: true, align: "center" });
  ctx.restore();
}

/** The whole cache as a picture, a pixel per number; made once per color scheme. */
function cacheImage(cache, colors) {
  if (cache.image?.colors === colors) return cache.image.canvas;
  const { tokens, rows, data, scale } = cache;
  const canvas = document.createElement("canvas");
  canvas.width = tokens;
  canvas.height = rows;
  const ctx = canvas.getContext("2d");
  const pixels = ctx.createImageData(tokens, rows);
  const paper = channels(colors.paper);
  for (let t = 0; t < tokens; t++) {
    for (let row = 0; row < rows; row++) {
      const share = Math.pow(clamp(Math.abs(data[t * rows + row]) / scale), 0.7);
      const ink = channels(row < rows / 2 ? colors.key : colors.value);
      const at = 4 * (row * tokens + t);
      for (let c = 0; c < 3; c++) pixels.data[at + c] = mix(paper[c], ink[c], share);
      pixels.data[at + 3] = 255;
    }
  }
  ctx.putImageData(pixels, 0, 0);
  cache.image = { canvas, colors };
  return canvas;
}

/** W and S of a head after `t` tokens as pictures, a pixel per number; the last ones are kept. */
export function pictures(run, t, colors) {
  if (run.pictured?.t !== t || run.pictured.colors !== colors) {
    const { m, f } = run.head;
    const W = matrixImage(run.W(t), m, f, run.scale, colors);
    const S = run.stampMost ? matrixImage(run.S(t), m, f, run.stampMost, colors) : null;
    run.pictured = { t, colors, W, S };
  }
  return run.pictured;
}

function matrixImage(W, m, f, scale, colors) {
  const canvas = document.createElement("canvas");
  canvas.width = f;
  canvas.height = m;
  const ctx = canvas.getContext("2d");
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < f; j++) {
      ctx.fillStyle = signed(colors, W[i * f + j] / scale);
      ctx.fillRect(j, i, 1, 1);
    }
  }
  return canvas;
}
