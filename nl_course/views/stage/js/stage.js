// The stage: the parts put together, the clock that runs them, and the hands that stop it.
//
//     const stage = mount(element, take, { live, request })
//     stage.show(t, phase)      any frame, the same for a recording and a live model
//
// `request(kind, data)` asks a kernel to read again; a recording has none, and then the controls that need one are absent.
import { at, durations, EVENT, slowed } from "./clock.js";
import { clamp, count, percent, unpack } from "./numbers.js";
import { AS_LEARNED, quantile, replay, writeOnce } from "./replay.js";
import { colorsFor, isDark } from "./palette.js";
import { makeCanvas } from "./canvas.js";
import { makeText } from "./text.js";
import { drawWrite, letterOf } from "./write.js";
import { drawDesk, pictures } from "./desk.js";
import { drawAsk } from "./ask.js";
import { makeGates } from "./gates.js";
import { makeOuter } from "./outer.js";
import { makePlacing } from "./placing.js";

const SPEEDS = [1, 2, 5, 10, 20];
const SEEN = 0.3; // seconds from which on the parts of one write can be told apart
const ASKING = "The question is read as text, by a copy of the memory. Each of its letters becomes a query, which asks W as a key " +
  "does (attention looks through its columns). The model's other weights turn the answer into digits. W itself is not " +
  "changed by the question.";
let stages = 0; // how many were mounted on this page: ids of labels must differ

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    // These two want "true" or "false" in words; other attributes are there or are not.
    else if (name.startsWith("aria-") || name === "draggable") node.setAttribute(name, String(value));
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

export function mount(element, firstTake, { live = false, request = () => {} } = {}) {
  const reduced = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const number = ++stages;
  const id = (name) => `nl-stage-${number}-${name}`;
  const state = { t: null, phase: 1, playing: false, speed: 10, memory: 0, checkpoint: 0, head: 0, begun: false };
  let take, bytes, runs, text, colors, seconds, cache, drawnWidth = 0;
  const root = make("div", { class: "nl-stage", "data-lm-suppress-shortcuts": "true", role: "group", "aria-label": "The stage: a machine that reads" });
  element.append(root);

  // -- what stands where -----------------------------------------------------------------------------------------------
  const play = make("button", { class: "nl-stage-play", type: "button", onclick: () => toggle(), text: "▶ Read" });
  const back = make("button", { type: "button", "aria-label": "One byte back", onclick: () => step(-1), text: "◀" });
  const next = make("button", { type: "button", "aria-label": "One byte on: watch its write", onclick: () => step(1), text: "▶▏" });
  const speed = make("select", { id: id("speed"), onchange: () => setSpeed(Number(speed.value)) });
  for (const words of SPEEDS) speed.append(make("option", { value: words, selected: words === 10, text: `${words} words/s` }));
  const memory = make("select", { id: id("memory"), onchange: () => setMemory(Number(memory.value)) });
  const title = make("div", { class: "nl-stage-title" },
    make("strong", { text: "A machine that reads, and learns while it reads" }));
  const about = make("span", { class: "nl-stage-about" });
  title.append(about);
  const controls = make("div", { class: "nl-stage-controls" }, play, back, next,
    make("label", { for: id("speed"), class: "nl-stage-hidden", text: "Speed" }), speed,
    make("label", { for: id("memory"), class: "nl-stage-hidden", text: "Memory" }), memory);
  const words = make("div", { class: "nl-stage-text", role: "slider", tabindex: 0, "aria-label": "Place in the text" });
  const legend = make("div", { class: "nl-stage-legend" });
  const slow = make("span", { class: "nl-stage-slow", text: "slowed down: the fact" });
  const heads = make("div", { class: "nl-stage-heads", role: "group", "aria-label": "Heads of the memory" });
  const writePart = make("section", { class: "nl-stage-write", "aria-label": "The write" });
  const writeCanvas = makeCanvas(writePart, "The write of this byte");
  const gatesPart = make("div", { class: "nl-stage-gates", role: "group", "aria-label": "Turn the gates of the next write" });
  writePart.append(gatesPart, heads);
  const deskPart = make("section", { class: "nl-stage-desk", "aria-label": "What is kept" });
  const deskCanvas = makeCanvas(deskPart, "What attention and the memory keep");
  const askPart = make("section", { class: "nl-stage-ask", "aria-label": "Ask for the fact" });
  const askCanvas = makeCanvas(askPart, "Each memory's answer, word by word");
  askPart.append(make("p", { class: "nl-stage-note", text: ASKING }));
  const side = make("div", { class: "nl-stage-side" }, deskPart, askPart);
  const columns = make("div", { class: "nl-stage-columns" }, writePart, side);
  const outerPart = make("section", { class: "nl-stage-outer", "aria-label": "The outer loop" });
  const readout = make("p", { class: "nl-stage-readout", role: "status" });
  root.append(make("div", { class: "nl-stage-head" }, title, controls), words, legend, columns, outerPart, readout);
  const outer = makeOuter(outerPart, { id, make, onCheckpoint: (index) => setCheckpoint(index), changed: () => draw() });
  const gates = makeGates(gatesPart, { id, make,
    turned: () => { pause(); draw(); },
    settled: (gains) => { if (live && one().turns) request("gains", { ...gains }); } });
  const placing = live ? makePlacing(legend, { id, make, words, at: () => state.t, letterAt: (node) => text.letters.indexOf(node),
    send: (data) => request("text", data) }) : null;

  // -- the take ---------------------------------------------------------------------------------------------------------
  function setTake(taken) {
    const known = take?.memories.map((one) => `${one.name} ${one.checkpoints.length}`).join();
    const again = known === taken.memories.map((one) => `${one.name} ${one.checkpoints.length}`).join();
    take = taken;
    bytes = new TextEncoder().encode(take.text);
    take.bytes = bytes;
    runs = new Map();
    memory.replaceChildren();
    take.memories.forEach((one, index) => {
      if (one.checkpoints.some((checkpoint) => checkpoint.heads.length)) {
        memory.append(make("option", { value: index, text: one.label }));
      }
    });
    memory.hidden = memory.options.length < 2;
    // The same memories once more: what was chosen of them stays chosen.
    if (!again) {
      state.memory = Math.max(0, take.memories.findIndex((one) => one.name === take.shown.memory));
      state.checkpoint = take.memories[state.memory].checkpoints.length - 1;
      state.head = take.shown.head;
    }
    state.t = state.t === null ? openingByte() : clamp(state.t, 0, bytes.length - 1);
    memory.value = state.memory;
    cache = unpackCache(take.memories.find((one) => one.cache));
    text = makeText(words, take, bytes, (t) => go(t));
    words.setAttribute("aria-valuemin", 1);
    words.setAttribute("aria-valuemax", bytes.length);
    deskPart.hidden = !cache;
    placing?.setTake(take, bytes);
    settle();
  }

  /** The stage opens on the answer's first byte, just written: the text before it is read, the rest is not. */
  const openingByte = () => take.fact.answer_first;

  function unpackCache(one) {
    if (!one) return null;
    const { shape, data } = unpack(one.cache);
    return { tokens: shape[0], rows: shape[1] * shape[2], data, scale: quantile([...data].map(Math.abs), 0.98), bytes: one.bytes };
  }

  const one = () => take.memories[state.memory];
  const checkpoint = () => one().checkpoints[state.checkpoint];

  /** The replay of a head, made once. */
  function run(head = state.head) {
    const key = `${state.memory} ${state.checkpoint} ${head}`;
    if (!runs.has(key)) {
      const made = replay(checkpoint().heads[head]);
      made.mostLoss = quantile(made.writes.map((write) => Math.max(write.before, write.after)), 0.97);
      made.stampScale = quantile(made.writes.flatMap((write) => [...write.S].map(Math.abs)), 0.998);
      made.stampMost = made.head.momentum.some((gate) => gate > 0) ? made.stampScale : 0;
      runs.set(key, made);
    }
    return runs.get(key);
  }

  /** After the memory, the checkpoint, the head or the speed changed. */
  function settle() {
    state.head = Math.min(state.head, checkpoint().heads.length - 1);
    seconds = durations(take, run(), state.speed);
    about.textContent = ` ${one().label} · ${count(one().parameters)} weights · trained ${count(checkpoint().step)} outer steps`;
    makeHeads();
    outer.setTake(take, one(), state.checkpoint);
    draw();
  }

  function makeHeads() {
    heads.replaceChildren(make("span", { text: `${checkpoint().heads.length} heads write at each byte; shown large:` }));
    checkpoint().heads.forEach((head, index) => {
      const button = make("button", { type: "button", "aria-label": `Head ${head.head} of layer ${head.layer}`,
        "aria-pressed": index === state.head, onclick: () => { state.head = index; settle(); } });
      button.append(document.createElement("canvas"));
      heads.append(button);
    });
  }

  // -- time -------------------------------------------------------------------------------------------------------------
  let began = 0, origin = 0, ticket = 0;
  const clockNow = () => performance.now() / 1000;

  function toggle() {
    if (state.playing) return pause();
    // The first time one wants to see it all, though the stage opened in the middle.
    if (!state.begun || state.t >= bytes.length - 1) state.t = 0;
    state.begun = true;
    origin = state.t;
    began = clockNow();
    loop();
  }

  function pause() {
    if (!state.playing) return;
    state.playing = false;
    cancelAnimationFrame(ticket);
    play.textContent = "▶ Read";
    state.phase = 1;
    draw();
  }

  function loop() {
    if (!filmed(clockNow() - began)) ticket = requestAnimationFrame(loop);
  }

  /** The frame so many seconds after reading began; true if that was the last one. */
  function filmed(elapsed) {
    const now = at(seconds, origin, elapsed);
    state.t = now.t;
    // A byte that passes in a blink is shown as it is when it has been written.
    state.phase = seconds[now.t] > SEEN && !now.over ? now.phase : 1;
    state.playing = !now.over;
    play.textContent = state.playing ? "❚❚ Pause" : "▶ Read";
    draw();
    return now.over;
  }

  /** One byte on, with its write as an event; or back, at once. */
  function step(by) {
    cancelAnimationFrame(ticket);
    state.playing = false;
    state.begun = true;
    play.textContent = "▶ Read";
    const target = clamp(state.t + by, 0, bytes.length - 1);
    if (by !== 1 || target === state.t || reduced) return go(target);
    state.t = target;
    const start = clockNow();
    const event = () => {
      state.phase = clamp((clockNow() - start) / EVENT);
      draw();
      if (state.phase < 1) ticket = requestAnimationFrame(event);
    };
    event();
  }

  function go(t, phase = 1) {
    pause();
    state.begun = true;
    cancelAnimationFrame(ticket);
    state.t = clamp(t, 0, bytes.length - 1);
    state.phase = phase;
    draw();
  }

  function wordStep(by) {
    const firsts = take.words.map(([first]) => first);
    const index = take.words.findIndex(([first, last]) => first <= state.t && state.t <= last);
    go(firsts[clamp(index + by, 0, firsts.length - 1)]);
  }

  function setSpeed(wordsPerSecond) {
    state.speed = wordsPerSecond;
    origin = state.t;
    began = clockNow();
    settle();
  }

  function setMemory(index) {
    state.memory = index;
    state.checkpoint = one().checkpoints.length - 1;
    settle();
  }

  function setCheckpoint(index) {
    state.checkpoint = index;
    settle();
  }

  root.addEventListener("keydown", (event) => {
    const tag = event.target.tagName;
    const typing = tag === "INPUT" || tag === "SELECT" || tag === "TEXTAREA";
    if (typing) return event.stopPropagation();
    if (event.key === " " && tag !== "BUTTON") toggle();
    else if (event.key === "ArrowRight") event.shiftKey ? wordStep(1) : step(1);
    else if (event.key === "ArrowLeft") event.shiftKey ? wordStep(-1) : step(-1);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(bytes.length - 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // -- a frame ----------------------------------------------------------------------------------------------------------
  function draw() {
    if (!take || !colors) return;
    const current = run();
    const { t, phase } = state;
    const [before, S] = [current.W(t), current.S(t)];
    const gains = gainsLeft();
    const turned = Object.values(gains).some((gain) => gain !== 1);
    const write = turned ? writeOnce(current.head, t, before, S, gains) : current.writes[t];
    write.size ??= Math.hypot(...before);
    const frame = { take, bytes, run: current, t, phase, colors, before, write, name: one().name, label: one().label };
    text.show(t, current, colors);
    slow.style.visibility = state.playing && slowed(take, t) ? "visible" : "hidden";
    drawWrite(writeCanvas, { ...frame, width: writePart.clientWidth, reading: state.playing && seconds[t] <= SEEN });
    gates.draw(frame);
    drawHeads(phase === 1 || phase > 0.9 ? t + 1 : t);
    if (cache) {
      const states = checkpoint().heads.map((_, index) => pictures(run(index), phase < 0.9 ? t : t + 1, colors));
      const { m, f } = current.head;
      drawDesk(deskCanvas, { ...frame, width: deskPart.clientWidth, cache, states, m, f, attentionBytes: cache.bytes, memoryBytes: one().bytes });
    }
    const trails = take.memories.map((other, index) => {
      const chosen = index === state.memory ? checkpoint() : other.checkpoints[other.checkpoints.length - 1];
      return { name: other.name, label: other.label, ...chosen.answers };
    });
    drawAsk(askCanvas, { ...frame, width: askPart.clientWidth, trails });
    outer.draw(colors, t, take, outerPart.clientWidth);
    tell(current, write, turned, trails);
  }

  /** What the sliders ask for beyond the gains that the kernel has read the text with. */
  function gainsLeft() {
    const given = take.gains ?? AS_LEARNED;
    const left = {};
    for (const [name, gain] of Object.entries(gates.gains)) left[name] = given[name] ? gain / given[name] : 1;
    return left;
  }

  function drawHeads(t) {
    heads.querySelectorAll("canvas").forEach((canvas, index) => {
      const other = run(index);
      if (canvas.shown === pictures(other, t, colors).W) return;
      canvas.shown = pictures(other, t, colors).W;
      canvas.width = other.head.f;
      canvas.height = other.head.m;
      canvas.getContext("2d").drawImage(canvas.shown, 0, 0);
    });
  }

  function tell(current, write, turned, trails) {
    const word = take.words.find(([first, last]) => first <= state.t && state.t <= last);
    const spelled = new TextDecoder().decode(bytes.slice(word[0], word[1] + 1)).trim();
    const place = `Byte ${state.t + 1} of ${bytes.length}, “${letterOf(bytes[state.t])}” in “${spelled}”`;
    words.setAttribute("aria-valuenow", state.t + 1);
    words.setAttribute("aria-valuetext", place);
    // A status that changed with every frame would never be read to its end.
    if (state.playing) readout.textContent = "It reads. Space pauses, arrows step.";
    if (state.playing) return;
    const rank = current.writes.filter((other) => other.moved > write.moved).length + 1;
    const answer = trails.map((trail) => {
      const last = trail.at.filter((end) => end <= state.t + 1).length - 1;
      return last < 0 ? "" : `${trail.label} ${percent(trail.probability[last])}`;
    }).filter(Boolean).join(", ");
    readout.textContent = `${place}: the write moves W by ${write.moved.toFixed(2)} (number ${rank} of ${bytes.length} by size), ` +
      `and the inner loss on this byte goes from ${write.before.toFixed(2)} to ${write.after.toFixed(2)}` +
      `${turned ? " with your gates" : ""}.${answer ? ` Asked now for ${take.fact.answer}: ${answer}.` : ""}`;
  }

  // -- colors, size, life -----------------------------------------------------------------------------------------------
  function recolor() {
    const dark = isDark(root);
    root.dataset.theme = dark ? "dark" : "light";
    colors = colorsFor(dark);
    legend.replaceChildren(make("span", { class: "nl-stage-scale", style: `--from:transparent;--to:${colors.surprise}` }),
      "the stronger the color, the more the memory was surprised · click a letter · space reads, arrows step", slow);
    draw();
  }

  const resized = new ResizeObserver(() => {
    if (Math.abs(root.clientWidth - drawnWidth) < 1) return;
    drawnWidth = root.clientWidth;
    root.classList.toggle("nl-stage-narrow", drawnWidth < 560);
    root.classList.toggle("nl-stage-middle", drawnWidth < 900);
    draw();
  });
  const themed = new MutationObserver(recolor);
  setTake(firstTake);
  if (firstTake.unfolded) outer.unfold();
  recolor();
  resized.observe(root);
  for (const node of [document.documentElement, document.body]) {
    themed.observe(node, { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-light", "data-theme"] });
  }
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", recolor);

  return {
    root, state, setTake, play: toggle, pause, step, setMemory, setCheckpoint, outer,
    show(t, phase = 1) { go(t, phase); },
    /** The frame that reading from the first byte at so many words a second shows after `elapsed` seconds. */
    film(elapsed, wordsPerSecond) {
      speed.value = wordsPerSecond;
      if (state.speed !== wordsPerSecond) setSpeed(wordsPerSecond);
      origin = 0;
      return filmed(elapsed);
    },
    seconds: () => [...seconds],
    run,
    destroy() {
      pause();
      resized.disconnect();
      themed.disconnect();
      scheme.removeEventListener("change", recolor);
      root.remove();
    },
  };
}
