// The outer loop. The dial says after how many outer steps the model reads. One of these steps unfolded: every write of
// the text in a strip, the loss of the answer at its end, and the gradient that walks back, up to where it is cut.
import { makeCanvas, prepared, roundRect, say, sayFitting } from "./canvas.js";
import { clamp, count, ease, largest, mix, unpack } from "./numbers.js";
import { alpha } from "./palette.js";

const MODES = [
  ["exact", "exact gradient"],
  ["first-order", "first order: each surprise counts as a constant"],
  ["stopped", "stopped: keys, values and gates count as constants"],
];
const WALK = 1.6; // seconds for the gradient's way back through the whole text
const FOLD = 0.7; // seconds to fold the strip into its tick

/** One mode of a checkpoint's `outer` as arrays, and what a cut before byte `cut` leaves of it. */
export function unpackWalk(form) {
  const names = ["value", "key", "gates", "value_weights", "key_weights"];
  const arrays = Object.fromEntries(names.map((name) => [name, unpack(form[name]).data]));
  return { ...arrays, loss: form.loss, start: form.start };
}

export function leftBy(walk, cut) {
  let reached = 0;
  for (let t = cut; t < walk.value.length; t++) {
    if (walk.value[t] > 0 || walk.key[t] > 0 || walk.gates[t] > 0) reached += 1;
  }
  return { reached, value: walk.value_weights[cut], key: walk.key_weights[cut], start: cut === 0 ? walk.start : 0 };
}

export function makeOuter(parent, { id, make, onCheckpoint, changed }) {
  const dial = make("div", { class: "nl-stage-dial" });
  const canvas = makeCanvas(parent, "The outer loop");
  const hands = make("div", { class: "nl-stage-dial" });
  const told = make("p", { class: "nl-stage-told", role: "status" });
  parent.prepend(dial);
  parent.append(hands, told);

  const state = { open: false, fold: 1, wave: 1, cut: 0, mode: "exact", steps: [], index: 0 };
  let walks = null;
  let ticket = 0;
  let last = null;

  const unfold = make("button", { type: "button", "aria-expanded": false, onclick: () => open(!state.open) });
  const walkBack = make("button", { type: "button", onclick: () => walk(), text: "◀ Walk back" });
  const scissors = make("input", { type: "range", id: id("cut"), min: 0, max: 1, step: 1, value: 0, oninput: () => {
    state.cut = Number(scissors.value);
    changed();
  }, onchange: () => walk() });
  const mode = make("select", { id: id("mode"), onchange: () => { state.mode = mode.value; walk(); } });
  for (const [value, text] of MODES) mode.append(make("option", { value, text }));
  hands.append(walkBack, make("label", { for: id("cut"), text: "✂ cut before byte" }), scissors,
    make("label", { for: id("mode"), class: "nl-stage-hidden", text: "Which gradient" }), mode);

  function open(wanted) {
    state.open = wanted;
    unfold.setAttribute("aria-expanded", wanted);
    animate(FOLD, (share) => { state.fold = wanted ? 1 - share : share; }, () => { if (wanted) walk(); });
  }

  function walk() {
    animate(WALK, (share) => { state.wave = share; }, () => {});
  }

  function animate(seconds, move, then) {
    cancelAnimationFrame(ticket);
    const began = performance.now();
    const frame = () => {
      const share = clamp((performance.now() - began) / 1000 / seconds);
      move(share);
      changed();
      if (share < 1) ticket = requestAnimationFrame(frame);
      else then();
    };
    frame();
  }

  return {
    state,
    /** Open at once, with the gradient at its goal. */
    unfold() {
      Object.assign(state, { open: true, fold: 0, wave: 1 });
      unfold.setAttribute("aria-expanded", true);
    },
    setTake(take, memory, index) {
      state.steps = memory.checkpoints.map((checkpoint) => checkpoint.step);
      state.index = index;
      const { outer } = memory.checkpoints[index];
      walks = outer ? Object.fromEntries(Object.entries(outer).map(([name, form]) => [name, unpackWalk(form)])) : null;
      const tokens = memory.bytes.length - 1;
      scissors.max = tokens;
      state.cut = Math.min(state.cut, tokens);
      parent.hidden = state.steps.length < 2 && !walks;
      const input = make("input", { type: "range", id: id("outer"), min: 0, max: state.steps.length - 1, step: 1, value: index,
        class: "nl-stage-steps", "aria-valuetext": `${state.steps[index]} outer steps`, oninput: () => onCheckpoint(Number(input.value)) });
      const focused = document.activeElement?.id === id("outer");
      const { recall } = memory.checkpoints[index];
      const share = recall ? ` · finds ${recall.right} of ${recall.asked} facts in new texts of ${recall.length} bytes` : "";
      dial.replaceChildren(make("label", { for: id("outer"), text: "Outer loop: this model was trained for" }), input,
        make("output", { for: id("outer"), text: `${count(state.steps[index])} steps${share}` }), unfold);
      unfold.hidden = !walks;
      if (focused) input.focus();
    },
    draw(colors, t, take, width) {
      unfold.textContent = state.open ? "Fold it again" : "Unfold one outer step";
      const shown = walks && (state.open || state.fold < 1);
      canvas.hidden = !shown;
      hands.hidden = told.hidden = !walks || !state.open;
      if (!shown) return;
      const one = walks[state.mode];
      drawOuter(canvas, { walk: one, exact: walks.exact, colors, width, take, ...state });
      const left = leftBy(one, state.cut);
      const whole = leftBy(walks.exact, 0);
      const part = (some, all) => `${some.toFixed(2)} of ${all.toFixed(2)}`;
      const words = `The loss of the answer is ${one.loss.toFixed(1)} nats. Its gradient reaches ${left.reached} of ` +
        `${one.value.length} writes. The length of the gradient, of what it would be exact and uncut: projection of values ` +
        `${part(left.value, whole.value)}, of keys ${part(left.key, whole.key)}, start of the memory ${part(left.start, whole.start)}.`;
      if (words !== last) told.textContent = last = words;
    },
  };
}

export function drawOuter(canvas, { walk, exact, colors, width, take, cut, fold, wave, steps, index }) {
  const height = 176;
  const ctx = prepared(canvas, width, height);
  const tokens = walk.value.length;
  const axis = { y: height - 30, x: 8, width: width - 16 };
  const place = steps.length > 1 ? axis.x + (axis.width * index) / (steps.length - 1) : axis.x + axis.width / 2;
  // The outer axis, and the tick into which the strip folds.
  ctx.fillStyle = alpha(colors.outer, 0.7);
  ctx.fillRect(axis.x, axis.y, axis.width, 2);
  steps.forEach((step, i) => {
    const x = steps.length > 1 ? axis.x + (axis.width * i) / (steps.length - 1) : place;
    ctx.beginPath();
    ctx.arc(x, axis.y + 1, i === index ? 7 : 4, 0, 2 * Math.PI);
    ctx.fillStyle = colors.outer;
    ctx.fill();
    const align = i === 0 ? "left" : i === steps.length - 1 ? "right" : "center";
    say(ctx, count(step), i === 0 ? 0 : i === steps.length - 1 ? width : x, axis.y + 24, colors.soft, { size: 12, align });
  });
  const share = ease(fold);
  const box = { x: mix(8, place - 3, share), y: mix(34, axis.y - 6, share), width: mix(width - 112, 6, share), height: mix(72, 12, share) };
  // Two lines from the strip's ends to its tick: all of this is one step there.
  ctx.strokeStyle = alpha(colors.outer, 0.35);
  ctx.lineWidth = 1;
  for (const x of [box.x, box.x + box.width]) {
    ctx.beginPath();
    ctx.moveTo(x, box.y + box.height);
    ctx.lineTo(place, axis.y);
    ctx.stroke();
  }
  ctx.fillStyle = colors.panel;
  ctx.fillRect(box.x, box.y, box.width, box.height);
  ctx.strokeStyle = colors.soft;
  ctx.strokeRect(box.x - 0.5, box.y - 0.5, box.width + 1, box.height + 1);
  const at = (t) => box.x + (box.width * t) / tokens;
  const most = Math.max(largest(exact.value), largest(exact.key), 1e-9);
  const reach = tokens * (1 - ease(wave)); // the gradient has walked back to here
  const tall = (norm) => (Math.sqrt(norm / most) * box.height) / 2;
  const middle = box.y + box.height / 2;
  for (let t = 0; t < tokens; t++) {
    const lit = t >= reach && t >= cut;
    const across = Math.max(0.8, box.width / tokens - 0.4);
    ctx.fillStyle = alpha(colors.faint, 1);
    ctx.fillRect(at(t), middle - 1, across, 2);
    if (!lit) continue;
    ctx.fillStyle = colors.value;
    ctx.fillRect(at(t), middle - tall(walk.value[t]), across, tall(walk.value[t]));
    ctx.fillStyle = colors.key;
    ctx.fillRect(at(t), middle, across, tall(walk.key[t]));
  }
  if (share > 0.5) return height;
  const fact = (take.fact.first + take.fact.last + 1) / 2;
  const headings = [
    "one text: a write per byte, its gradient up for the value and down for the key",
    "gradients of one text: value up, key down",
    "gradients: value up, key down",
  ];
  sayFitting(ctx, headings, 8, 14, width - 8, colors.ink);
  say(ctx, take.fact.answer, at(fact), box.y - 5, colors.soft, { size: 11, align: "center" });
  // The loss, where the gradient begins.
  const loss = { x: box.x + box.width + 14, y: middle - 24, width: 82, height: 48 };
  ctx.fillStyle = alpha(colors.outer, 0.16);
  ctx.strokeStyle = colors.outer;
  ctx.lineWidth = 2;
  roundRect(ctx, loss.x, loss.y, loss.width, loss.height, 8);
  ctx.fill();
  ctx.stroke();
  say(ctx, "loss of the", loss.x + 41, loss.y + 20, colors.ink, { size: 11, align: "center" });
  say(ctx, `answer ${walk.loss.toFixed(1)}`, loss.x + 41, loss.y + 36, colors.ink, { size: 12, bold: true, align: "center" });
  // The gradient on its way, and the scissors.
  const front = Math.max(reach, cut);
  const x = at(front);
  ctx.strokeStyle = colors.outer;
  ctx.lineWidth = 3;
  ctx.beginPath();
  ctx.moveTo(loss.x, box.y + box.height + 9);
  ctx.lineTo(x + 6, box.y + box.height + 9);
  ctx.stroke();
  ctx.fillStyle = colors.outer;
  ctx.beginPath();
  ctx.moveTo(x - 2, box.y + box.height + 9);
  ctx.lineTo(x + 9, box.y + box.height + 3);
  ctx.lineTo(x + 9, box.y + box.height + 15);
  ctx.fill();
  if (cut > 0) {
    ctx.setLineDash([4, 3]);
    ctx.strokeStyle = colors.ink;
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.moveTo(at(cut), box.y - 2);
    ctx.lineTo(at(cut), box.y + box.height + 18);
    ctx.stroke();
    ctx.setLineDash([]);
    say(ctx, "✂", at(cut), box.y + box.height + 30, colors.ink, { size: 16, align: "center" });
  }
  return height;
}
