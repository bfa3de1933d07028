// The rule that each byte is written with: its step, its momentum and its retention, as lines that grow while the text is
// read, and a slider under each that turns the next write.
import { makeCanvas, prepared, say } from "./canvas.js";
import { clamp, mix } from "./numbers.js";
import { AS_LEARNED } from "./replay.js";

const GATES = [
  ["step", "step", 3, 0.05],
  ["momentum", "momentum", 1.5, 0.05],
  ["keep", "retention", 1, 0.01],
];

/** The three gates in `parent`. `turned(gains)` is called while a slider moves, `settled(gains)` when it rests. */
export function makeGates(parent, { id, make, turned, settled }) {
  const gains = { ...AS_LEARNED };
  const made = GATES.map(([name, label, high, by]) => {
    const box = make("div", { class: "nl-stage-gate" });
    const canvas = makeCanvas(box, `The ${label} of each byte`);
    const low = name === "keep" ? 0.5 : 0;
    const input = make("input", { type: "range", id: id(name), min: low, max: high, step: by, value: 1 });
    const value = make("output", { for: id(name), text: "× 1" });
    input.addEventListener("input", () => {
      gains[name] = Number(input.value);
      value.textContent = `× ${input.value}`;
      turned(gains);
    });
    input.addEventListener("change", () => settled(gains));
    box.append(make("label", { for: id(name), class: "nl-stage-hidden", text: `${label} ×` }), input, value);
    parent.append(box);
    return { name, label, box, canvas, input, value };
  });
  const asLearned = make("button", { type: "button", text: "As learned", onclick: () => {
    Object.assign(gains, AS_LEARNED);
    for (const { input, value } of made) [input.value, value.textContent] = [1, "× 1"];
    turned(gains);
    settled(gains);
  } });
  parent.append(asLearned);
  return {
    gains,
    draw(frame) {
      asLearned.hidden = Object.values(gains).every((gain) => gain === 1);
      for (const { name, label, box, canvas } of made) {
        box.hidden = name === "momentum" && !frame.run.stampMost; // a memory without it has no such line
        if (!box.hidden) drawGate(canvas, { ...frame, label, numbers: frame.run.head[name], now: frame.write[name], width: box.clientWidth });
      }
    },
  };
}

function drawGate(canvas, { label, numbers, now, t, colors, width }) {
  const height = 62;
  const ctx = prepared(canvas, width, height);
  const chart = { x: 0, y: 22, width, height: height - 24 };
  const [low, high] = gateRange(numbers);
  const digits = high - low < 0.05 ? 3 : 2;
  const size = width < 130 ? 11 : 13;
  const said = say(ctx, label, 0, 14, colors.ink, { size, bold: true });
  say(ctx, now.toFixed(digits), said + 5, 14, colors.ink, { size });
  ctx.fillStyle = colors.panel;
  ctx.fillRect(chart.x, chart.y, chart.width, chart.height);
  const place = (i) => chart.x + ((chart.width - 38) * (i + 0.5)) / numbers.length;
  const level = (number) => mix(chart.y + chart.height - 3, chart.y + 3, clamp((number - low) / (high - low)));
  ctx.strokeStyle = colors.ink;
  ctx.lineWidth = 1.6;
  ctx.beginPath();
  for (let i = 0; i <= t; i++) {
    if (i === 0) ctx.moveTo(place(i), level(numbers[i]));
    else ctx.lineTo(place(i), level(numbers[i]));
  }
  ctx.stroke();
  ctx.fillStyle = colors.ink;
  ctx.beginPath();
  ctx.arc(place(t), level(now), 3.5, 0, 2 * Math.PI);
  ctx.fill();
  say(ctx, high.toFixed(digits), width - 2, chart.y + 11, colors.soft, { size: 11, align: "right" });
  say(ctx, low.toFixed(digits), width - 2, chart.y + chart.height - 3, colors.soft, { size: 11, align: "right" });
}

/** The ends of a gate's axis: 0 and its largest value, or a narrower range where it hardly moves at all. */
export function gateRange(numbers) {
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  if (least > 0.5 && most <= 1) return [Math.min(least, 0.999), 1];
  return [0, Math.max(most, 0.01)];
}
