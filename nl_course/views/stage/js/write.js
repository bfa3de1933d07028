// The write as an event. The letter that is read makes a key (rows of W) and a value (columns of W). W answers the key:
// the prediction. What it gets wrong is the error, and key times error flies into W.
import { FONT, numbered, prepared, roundRect, say, sayLines, slit } from "./canvas.js";
import { clamp, ease, mix } from "./numbers.js";
import { alpha, signed } from "./palette.js";
import { parts } from "./clock.js";

const NEVER_FORGETS = 0.9995; // retention above it is 1.000 on the stage
const [LOSSES, LOSSES_SMALL] = [196, 250]; // pixels, of the losses and their words under the write; narrow lines are more

/** Where everything stands at a width, in pixels. */
export function writeLayout(width, m, f) {
  const small = width < 520;
  // Before the matrix stand the rows' names, after it the write and the losses in words: what is left is the matrix's.
  const [before, gap, after] = small ? [68, 12, 82] : [Math.max(200, Math.round(width * 0.335)), 30, 130];
  const room = Math.floor((width - before - gap - after) / f);
  const cell = small ? Math.max(5, room) : Math.min(15, room);
  const grid = { x: before, y: small ? 118 : 66, cell };
  grid.width = cell * f;
  grid.height = cell * m;
  const right = grid.x + grid.width + gap;
  const stamp = { x: right, y: grid.y + (small ? 16 : 26), cell: small ? Math.max(3, (width - right - 4) / f) : Math.min(8, (width - right - 8) / f) };
  const bars = { y: grid.y + grid.height + 10, height: small ? 54 : 66 };
  const errors = { y: bars.y + bars.height + 8, height: small ? 40 : 44 };
  const height = Math.max(errors.y + errors.height + (small ? 40 : 8), stamp.y + stamp.cell * m + (small ? LOSSES_SMALL : LOSSES));
  return { small, grid, stamp, bars, errors, width, height };
}

export function letterOf(byte) {
  if (byte === 10) return "↵";
  if (byte === 32) return "␣";
  return byte > 32 && byte < 127 ? String.fromCharCode(byte) : "·";
}

export function drawWrite(canvas, frame) {
  const { run, phase, width } = frame;
  const { m, f } = run.head;
  const layout = writeLayout(width, m, f);
  const ctx = prepared(canvas, width, layout.height);
  const write = frame.write;
  const part = parts(phase);
  drawNow(ctx, frame, write, part);
  drawLetter(ctx, layout, frame, part);
  drawKey(ctx, layout, frame, write, part);
  drawMatrix(ctx, layout, frame, write, part);
  drawValues(ctx, layout, frame, write, part);
  drawErrors(ctx, layout, frame, write, part);
  drawStamp(ctx, layout, frame, write, part);
  drawLoss(ctx, layout, frame, write, part);
  return layout.height;
}

/** What happens now, in a sentence: the five steps of every memory here. */
function drawNow(ctx, { colors, bytes, t, phase, reading, width }, write, part) {
  const letter = letterOf(bytes[t]);
  const said = [
    [part.written > 0 || phase === 1, 4, `write: W moves by ${write.moved.toFixed(2)}`, colors.ink],
    [part.stamp > 0, 4, "write: key numbers times error numbers", colors.ink],
    [part.error > 0, 3, "error: what the prediction gets wrong", colors.error],
    [part.prediction > 0.5, 2, "predict: W answers the key", colors.value],
    [true, 1, `project: “${letter}” becomes a key and a value`, colors.key],
  ];
  const size = width < 520 ? 12 : 14;
  const [, step, words, color] = reading ? said[0] : said.find(([now]) => now);
  const disc = numbered(ctx, step, 0, 14, color, colors.paper);
  say(ctx, reading ? "every letter is written, most of them lightly" : words, disc + 8, 14, color, { size, bold: true });
}

function drawLetter(ctx, layout, { bytes, t, colors }, part) {
  const { small } = layout;
  const size = small ? 46 : 64;
  const x = small ? 0 : 4;
  const y = small ? 44 : layout.grid.y + 18;
  say(ctx, "reads", x, y - 8, colors.soft, { size: 12 });
  ctx.fillStyle = colors.panel;
  ctx.strokeStyle = colors.ink;
  ctx.lineWidth = 2;
  roundRect(ctx, x + 1, y, size, size, 10);
  ctx.fill();
  ctx.stroke();
  say(ctx, letterOf(bytes[t]), x + 1 + size / 2, y + size * 0.7, colors.ink, { size: size * 0.62, bold: true, align: "center" });
  // The letter becomes a key, above, and a value, below.
  if (!small) {
    const from = { x: x + size + 6, y: y + size / 2 };
    arrow(ctx, from, { x: layout.grid.x - 92, y: from.y }, alpha(colors.key, 0.25 + 0.75 * part.key));
    const down = { x: x + 6, y: y + size + 6 };
    const corner = { x: down.x, y: layout.bars.y + layout.bars.height / 2 + 9 };
    ctx.strokeStyle = alpha(colors.value, 0.25 + 0.75 * part.value);
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.moveTo(down.x, down.y);
    ctx.lineTo(corner.x, corner.y);
    ctx.stroke();
    arrow(ctx, corner, { x: layout.grid.x - 176, y: corner.y }, alpha(colors.value, 0.25 + 0.75 * part.value));
  }
}

function arrow(ctx, from, to, color) {
  const angle = Math.atan2(to.y - from.y, to.x - from.x);
  ctx.strokeStyle = ctx.fillStyle = color;
  ctx.lineWidth = 2;
  ctx.beginPath();
  ctx.moveTo(from.x, from.y);
  ctx.lineTo(to.x, to.y);
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(to.x + 2 * Math.cos(angle), to.y + 2 * Math.sin(angle));
  ctx.lineTo(to.x - 8 * Math.cos(angle - 0.45), to.y - 8 * Math.sin(angle - 0.45));
  ctx.lineTo(to.x - 8 * Math.cos(angle + 0.45), to.y - 8 * Math.sin(angle + 0.45));
  ctx.fill();
}

/** The key: one bar for each row of W, on its left. */
function drawKey(ctx, layout, { run, colors }, write, part) {
  const { grid, small } = layout;
  const room = small ? 40 : 66;
  const base = grid.x - 8;
  const named = say(ctx, "key", base, grid.y - 8, colors.key, { size: 13, bold: true, align: "right" });
  numbered(ctx, 1, base - named - 20, grid.y - 8, colors.key, colors.paper);
  ctx.fillStyle = colors.faint;
  ctx.fillRect(base - room / 2 - 0.5, grid.y, 1, grid.height);
  for (let i = 0; i < write.key.length; i++) {
    const share = clamp(write.key[i] / run.keys, -1, 1) * part.key;
    const length = (share * room) / 2;
    ctx.fillStyle = colors.key;
    ctx.fillRect(base - room / 2 + Math.min(0, length), grid.y + i * grid.cell + 2, Math.abs(length), grid.cell - 4);
    if (part.key === 1 && Math.abs(write.key[i]) > run.keys) {
      slit(ctx, base - room / 2 + length, grid.y + (i + 0.5) * grid.cell, Math.sign(length), 0, grid.cell - 4, colors.paper);
    }
  }
}

/** What rows and columns of W are: after its name, or above it where that leaves no room. */
function drawAxes(ctx, { grid, stamp }, after, colors) {
  const words = "rows: key, columns: value";
  ctx.font = `11px ${FONT}`;
  const fits = grid.x + after + ctx.measureText(words).width <= stamp.x - 6;
  say(ctx, words, grid.x + (fits ? after : 0), grid.y - (fits ? 8 : 24), colors.soft, { size: 11 });
}

/** What the two colors of a matrix mean. */
function drawSigns(ctx, x, y, colors) {
  for (const [name, color] of [["plus", colors.plus], ["minus", colors.minus]]) {
    ctx.fillStyle = color;
    ctx.fillRect(x, y - 8, 8, 8);
    x += 20 + say(ctx, name, x + 11, y, colors.soft, { size: 11 });
  }
}

/** W: what it was, becoming what it is while the write lands. */
function drawMatrix(ctx, layout, { run, colors, before, phase }, write, part) {
  const { grid, small } = layout;
  const { m, f } = run.head;
  const named = say(ctx, "memory W", grid.x, grid.y - 8, colors.ink, { size: 13, bold: true });
  if (small) drawSigns(ctx, grid.x + named + 10, grid.y - 8, colors);
  else drawAxes(ctx, layout, named + 8, colors);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < f; j++) {
      const at = i * f + j;
      // The write sinks in cell after cell, along the diagonal.
      const wave = clamp(part.written * 1.5 - (0.5 * (i + j)) / (m + f));
      ctx.fillStyle = signed(colors, mix(before[at], write.W[at], wave) / run.scale);
      ctx.fillRect(grid.x + j * grid.cell, grid.y + i * grid.cell, grid.cell - 1, grid.cell - 1);
    }
  }
  // The key asks its rows: they light up while the prediction forms.
  const asking = part.prediction * (1 - part.stamp);
  if (asking > 0.01) {
    for (let i = 0; i < m; i++) {
      const share = clamp(Math.abs(write.key[i]) / run.keys);
      ctx.fillStyle = alpha(colors.key, 0.35 * share * asking);
      ctx.fillRect(grid.x, grid.y + i * grid.cell, grid.width * ease(phase, 0.08, 0.24), grid.cell - 1);
    }
  }
  ctx.strokeStyle = colors.soft;
  ctx.lineWidth = 1;
  ctx.strokeRect(grid.x - 1.5, grid.y - 1.5, grid.width + 2, grid.height + 2);
  const flash = part.written * (1 - ease(phase, 0.95, 1));
  if (flash > 0.01) {
    ctx.strokeStyle = alpha(colors.ink, flash);
    ctx.lineWidth = 3;
    ctx.strokeRect(grid.x - 3, grid.y - 3, grid.width + 5, grid.height + 5);
  }
}

/** Value (filled) and prediction (hollow), side by side under each column of W; between their tips stands the error. */
function drawValues(ctx, layout, { run, colors }, write, part) {
  const { grid, bars } = layout;
  const unit = bars.height / (run.high - run.low);
  const middle = bars.y + run.high * unit; // where 0 stands
  const half0 = bars.y + bars.height / 2;
  label(ctx, layout, colors, half0 - 6, 2, "prediction", "W says", colors.value, part.prediction, "hollow");
  label(ctx, layout, colors, half0 + 14, 1, "value", "it should say", colors.value, part.value, "filled");
  ctx.fillStyle = colors.faint;
  ctx.fillRect(grid.x, middle - 0.5, grid.width, 1);
  const half = Math.max(2, Math.floor((grid.cell - 3) / 2));
  for (let j = 0; j < write.value.length; j++) {
    const said = -clamp(write.prediction[j], run.low, run.high) * unit * part.prediction;
    const told = -clamp(write.value[j], run.low, run.high) * unit * part.value;
    const x = grid.x + j * grid.cell + 1;
    ctx.strokeStyle = colors.value;
    ctx.lineWidth = 1.2;
    ctx.strokeRect(x + 0.5, middle + Math.min(0, said), half - 1, Math.abs(said));
    ctx.fillStyle = colors.value;
    ctx.fillRect(x + half + 1, middle + Math.min(0, told), half, Math.abs(told));
    const cut = (number) => number > run.high || number < run.low;
    if (part.prediction === 1 && cut(write.prediction[j])) slit(ctx, x + half / 2, middle + said, 0, Math.sign(said), half + 1, colors.paper);
    if (part.value === 1 && cut(write.value[j])) slit(ctx, x + 1.5 * half + 1, middle + told, 0, Math.sign(told), half, colors.paper);
    if (part.error > 0.01) {
      ctx.fillStyle = alpha(colors.error, part.error);
      const gap = (told - said) * part.error;
      ctx.fillRect(x + half - 0.5, middle + said + Math.min(0, gap), 2, Math.abs(gap));
    }
  }
}

/** The error: value less prediction, the way in which W should move. */
function drawErrors(ctx, layout, { run, colors }, write, part) {
  const { grid, errors } = layout;
  const middle = errors.y + errors.height / 2;
  label(ctx, layout, colors, middle + 5, 3, "error", "value − prediction", colors.error, part.error, "filled");
  ctx.fillStyle = colors.faint;
  ctx.fillRect(grid.x, middle - 0.5, grid.width, 1);
  for (let j = 0; j < write.error.length; j++) {
    const size = clamp(write.error[j] / run.errors, -1, 1) * (errors.height / 2) * part.error;
    ctx.fillStyle = colors.error;
    ctx.fillRect(grid.x + j * grid.cell + 2, middle + Math.min(0, size), grid.cell - 5, Math.abs(size));
    if (part.error === 1 && Math.abs(write.error[j]) > run.errors) {
      slit(ctx, grid.x + (j + 0.5) * grid.cell - 0.5, middle + size, 0, Math.sign(size), grid.cell - 5, colors.paper);
    }
  }
}

/** A row's name with a swatch, right before the grid, and what it is about in front of it. */
function label(ctx, layout, colors, y, step, name, about, color, shown, swatch) {
  const small = layout.small;
  const x = layout.grid.x - (small ? 4 : 12);
  const faded = alpha(color, 0.35 + 0.65 * shown);
  const room = small ? 0 : 13;
  if (!small) {
    ctx.strokeStyle = ctx.fillStyle = faded;
    ctx.lineWidth = 1.2;
    if (swatch === "hollow") ctx.strokeRect(x - 6.5, y - 9, 6, 9);
    else ctx.fillRect(x - 7, y - 10, 7, 10);
  }
  const width = say(ctx, name, x - room, y, faded, { size: small ? 11 : 13, bold: true, align: "right" });
  if (small) return;
  const disc = numbered(ctx, step, x - room - width - 20, y, color, colors.paper);
  say(ctx, about, x - room - width - 12 - disc, y, colors.soft, { size: 11, align: "right" });
}

/** key x error, made beside W, then flying into it. What momentum brings along flies with it. */
function drawStamp(ctx, layout, { run, colors, phase }, write, part) {
  const { grid, stamp, small } = layout;
  const { m, f } = run.head;
  const fly = part.flight;
  // It grows and rises late: the headings above it stay legible.
  const cell = mix(stamp.cell, grid.cell, ease(fly, 0.3, 1));
  const x = mix(stamp.x, grid.x, fly);
  const y = mix(stamp.y, grid.y, ease(fly, 0.7, 1));
  const top = stamp.y - (small ? 8 : 34);
  const disc = numbered(ctx, 4, stamp.x, top, colors.ink, colors.paper);
  say(ctx, "write", stamp.x + disc + 5, top, colors.ink, { size: 13, bold: true });
  if (!small) {
    say(ctx, `${write.step.toFixed(2)} × key × error`, stamp.x, top + 14, colors.soft, { size: 11 });
    const more = run.stampMost ? `+ ${write.momentum.toFixed(2)} × last write` : run.head.errors === "erased" ? "− what W said" : "";
    say(ctx, more, stamp.x, top + 27, colors.soft, { size: 11 });
  }
  ctx.strokeStyle = colors.faint;
  ctx.lineWidth = 1;
  ctx.strokeRect(stamp.x - 0.5, stamp.y - 0.5, f * stamp.cell, m * stamp.cell);
  // A faint copy stays while it flies, and once it is written, what was written stays to be looked at.
  if (fly > 0.01) {
    ctx.save();
    ctx.globalAlpha = mix(0.3, 1, ease(phase, 0.9, 1));
    drawCells(ctx, stamp.x, stamp.y, stamp.cell, m, f, write.S, run.stampScale, colors);
    ctx.restore();
  }
  const shown = part.stamp * (1 - ease(phase, 0.9, 0.98));
  if (shown > 0.01) {
    ctx.save();
    ctx.globalAlpha = shown * mix(1, 0.75, ease(fly, 0.7, 1));
    if (fly > 0.01) {
      ctx.shadowColor = alpha(colors.ink, 0.45);
      ctx.shadowBlur = 18 * Math.sin(Math.PI * fly);
      ctx.fillStyle = colors.paper;
      ctx.fillRect(x, y, cell * f, cell * m);
      ctx.shadowBlur = 0;
    }
    drawCells(ctx, x, y, cell, m, f, write.S, run.stampScale, colors);
    ctx.strokeStyle = colors.error;
    ctx.lineWidth = 2;
    ctx.strokeRect(x - 1, y - 1, cell * f + 1, cell * m + 1);
    ctx.restore();
  }
}

function drawCells(ctx, x, y, cell, m, f, numbers, scale, colors) {
  const size = Math.max(0.5, cell - (cell > 5 ? 1 : 0));
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < f; j++) {
      ctx.fillStyle = signed(colors, numbers[i * f + j] / scale);
      ctx.fillRect(x + j * cell, y + i * cell, size, size);
    }
  }
}

/** The inner loss on this token: the whole bar before the write, the filled part after it. And what retention took. */
function drawLoss(ctx, layout, { run, colors }, write, part) {
  const { stamp, small } = layout;
  const x = stamp.x;
  const room = layout.width - x - 6;
  let y = stamp.y + stamp.cell * run.head.m + (small ? 22 : 40);
  if (!small) drawSigns(ctx, x, y - 25, colors);
  const shown = part.error;
  const height = 12;
  const before = (clamp(write.before / run.mostLoss) * room) * shown;
  const after = (clamp(write.after / run.mostLoss) * room) * shown;
  say(ctx, "inner loss", x, y, alpha(colors.ink, 0.4 + 0.6 * shown), { size: small ? 11 : 12, bold: true });
  y += 6;
  ctx.fillStyle = alpha(colors.error, 0.3);
  ctx.fillRect(x, y, before, height);
  ctx.fillStyle = colors.error;
  ctx.fillRect(x, y, mix(before, after, part.written), height);
  if (shown === 1 && write.before > run.mostLoss) slit(ctx, x + before, y + height / 2, 1, 0, height, colors.paper);
  y += height + 14;
  if (part.written > 0.5) say(ctx, `${write.before.toFixed(2)} → ${write.after.toFixed(2)}`, x, y, colors.ink, { size: 12 });
  y = sayLines(ctx, "before → after, same letter: a surprising letter starts high", x, y + 15, room, colors.soft);
  y += 8;
  const taken = write.taken / (write.size || 1);
  say(ctx, small ? "forgotten" : "retention took", x, y, alpha(colors.ink, 0.4 + 0.6 * part.written), { size: small ? 11 : 12, bold: true });
  y += 6;
  ctx.fillStyle = colors.faint;
  ctx.fillRect(x, y, room, 6);
  ctx.fillStyle = colors.soft;
  ctx.fillRect(x, y, Math.max(part.written > 0.5 ? 1 : 0, room * clamp(taken) * part.written), 6);
  const never = write.keep > NEVER_FORGETS && run.head.keep.every((keep) => keep > NEVER_FORGETS);
  if (never) sayLines(ctx, "this head never forgets here", x, y + 20, room, colors.ink);
  else if (part.written > 0.3) say(ctx, `${(100 * taken).toFixed(1)} % of W`, x, y + 20, colors.ink, { size: 12 });
  say(ctx, small ? "slit: longer" : "slit: longer than drawn", x, layout.height - 6, colors.soft, { size: 11 });
}
