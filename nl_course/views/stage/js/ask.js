// Ask: after every word each memory is asked for the fact. Its answer's probability leaves a trail over the text.
import { prepared, say } from "./canvas.js";
import { percent } from "./numbers.js";
import { alpha, DASHES } from "./palette.js";

const MONO = "ui-monospace, 'DejaVu Sans Mono', monospace";

/** `trails`: [{name, label, at, probability, said}]; `asked`: {question, answer}. */
export function drawAsk(canvas, frame) {
  const { take, t, colors, width, trails } = frame;
  const chart = { x: 42, y: 62, width: width - 52, height: 92 };
  const row = 22;
  const height = chart.y + chart.height + 26 + trails.length * row + 4;
  const ctx = prepared(canvas, width, height);
  const tokens = take.bytes.length;
  const place = (byte) => chart.x + (chart.width * byte) / tokens;
  const level = (share) => chart.y + chart.height * (1 - share);
  const asked = say(ctx, "Ask after every word:", 0, 16, colors.ink, { size: 13, bold: true });
  say(ctx, `${take.fact.question} ?`, asked + 8, 16, colors.ink, { size: 14, bold: true, font: MONO });
  say(ctx, `probability that the memory answers ${take.fact.answer}`, 0, 34, colors.soft, { size: 11 });
  // Axes, and where the fact stands in the text.
  ctx.fillStyle = colors.panel;
  ctx.fillRect(chart.x, chart.y, chart.width, chart.height);
  ctx.fillStyle = alpha(colors.surprise, 0.35);
  ctx.fillRect(place(take.fact.first), chart.y, Math.max(2, place(take.fact.last + 1) - place(take.fact.first)), chart.height);
  say(ctx, "fact", (place(take.fact.first) + place(take.fact.last)) / 2, chart.y - 5, colors.soft, { size: 11, align: "center" });
  for (const share of [0, 0.5, 1]) {
    ctx.fillStyle = colors.faint;
    ctx.fillRect(chart.x, level(share) - 0.5, chart.width, 1);
    say(ctx, percent(share), chart.x - 4, level(share) + 4, colors.soft, { size: 11, align: "right" });
  }
  say(ctx, "bytes read →", chart.x + chart.width, chart.y + chart.height + 14, colors.soft, { size: 11, align: "right" });
  trails.forEach((trail, number) => {
    const color = colors.memories[trail.name] ?? colors.ink;
    ctx.strokeStyle = color;
    ctx.lineWidth = 2.5;
    ctx.setLineDash(DASHES[trail.name] ?? []);
    ctx.beginPath();
    let last = -1;
    // Steps: between the ends of two words nothing was asked.
    trail.at.forEach((end, i) => {
      if (end > t + 1) return;
      const [x, y] = [place(end), level(trail.probability[i])];
      if (last < 0) ctx.moveTo(x, y);
      else ctx.lineTo(x, level(trail.probability[last]));
      ctx.lineTo(x, y);
      last = i;
    });
    ctx.stroke();
    ctx.setLineDash([]);
    const y = chart.y + chart.height + 34 + number * row;
    ctx.lineWidth = 2.5;
    ctx.setLineDash(DASHES[trail.name] ?? []);
    ctx.beginPath();
    ctx.moveTo(0, y - 4);
    ctx.lineTo(26, y - 4);
    ctx.stroke();
    ctx.setLineDash([]);
    const named = 34 + say(ctx, trail.label, 34, y, color, { size: 12, bold: true });
    if (last < 0) return;
    ctx.fillStyle = color;
    ctx.beginPath();
    ctx.arc(place(trail.at[last]), level(trail.probability[last]), 4, 0, 2 * Math.PI);
    ctx.fill();
    const right = trail.said[last] === take.fact.answer;
    const said = trail.said[last].replace(/[^\x20-\x7e]/g, "·");
    // From the right: the probability, what it is the probability of, and what the memory says most likely.
    const share = say(ctx, `· ${take.fact.answer}: ${percent(trail.probability[last])}`, width - 4, y, colors.ink, { size: 12, align: "right" });
    const answers = say(ctx, said, width - 10 - share, y, right ? colors.ink : colors.soft, { size: 12, bold: right, align: "right", font: MONO });
    const room = width - 10 - share - answers - named;
    if (room > 60) say(ctx, "answers", width - 16 - share - answers, y, colors.soft, { size: 12, align: "right" });
  });
  return height;
}
