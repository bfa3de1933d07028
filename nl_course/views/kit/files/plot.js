// A figure. The model holds the whole of it, always; what is drawn follows the model, and never a message.

// What all figures of a page share, of whichever notebook: plotly, and who waits to be drawn.
const page = (window.nlCourse ??= { plotly: null, waiting: [], drawing: false });
const options = { displayModeBar: false, responsive: false };

// -- plotly, once per page ---------------------------------------------------------------------------------------------

function plotly(model) {
  page.plotly ??= load(model).catch((error) => { page.plotly = null; throw error; });
  return page.plotly;
}

async function load(model) {
  const library = await model.widget_manager.get_model(model.get("library"));
  const packed = new Blob([library.get("source")]).stream();
  const source = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const [before, script] = [window.Plotly, document.createElement("script")];
  await new Promise((loaded, failed) => {
    Object.assign(script, { src: url, onload: loaded, onerror: () => failed(new Error("plotly.js did not load")) });
    document.head.append(script);
  });
  URL.revokeObjectURL(url);
  const own = window.Plotly;
  window.Plotly = before;
  return own;
}

// One figure at a time, those in sight first; in between the page answers.
function take_turn(el, draw) {
  return new Promise((done) => {
    page.waiting.push({ el, draw, done });
    if (!page.drawing) next();
  });
}

async function next() {
  page.drawing = true;
  while (page.waiting.length) {
    await new Promise((rest) => setTimeout(rest));
    const first = Math.max(0, page.waiting.findIndex(({ el }) => in_sight(el)));
    const [{ draw, done }] = page.waiting.splice(first, 1);
    try { await draw(); } catch (error) { console.error(error); }
    done();
  }
  page.drawing = false;
}

function in_sight(el) {
  const { top, bottom } = el.getBoundingClientRect();
  return bottom > 0 && top < window.innerHeight;
}

// -- differences -------------------------------------------------------------------------------------------------------

// A copy of `tree` in which the dotted keys of `edits` have their new values; null takes a key away. What did not
// change is the same object as before, so that plotly sees at once that it did not change.
function patched(tree, edits) {
  const copy = { ...tree };
  for (const [path, value] of Object.entries(edits)) {
    const keys = path.split("."), last = keys.pop();
    let at = copy;
    for (const key of keys) at = at[key] = { ...at[key] };
    if (value === null) delete at[last];
    else at[last] = value;
  }
  return copy;
}

function heard(model, { difference }) {
  if (!difference) return;
  const figure = model.get("figure");
  if (figure.revision >= difference.revision) return;  // it came with the whole figure
  if (figure.revision + 1 !== difference.revision) return model.send({ ask: "state" });
  model.set("figure", {
    revision: difference.revision,
    data: figure.data.map((trace, i) => (difference.data[i] ? patched(trace, difference.data[i]) : trace)),
    layout: patched(figure.layout, difference.layout),
  });
}

// -- numbers and colors as plotly needs them ---------------------------------------------------------------------------

const kinds = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u4: Uint32Array,
                u2: Uint16Array, u1: Uint8Array };
const unpacked = new WeakMap();

function numbers(packed) {
  if (!unpacked.has(packed)) {
    const bytes = Uint8Array.from(atob(packed.bdata), (letter) => letter.charCodeAt(0));
    const flat = new kinds[packed.dtype](bytes.buffer);
    const shape = packed.shape ? String(packed.shape).split(",").map(Number) : [flat.length];
    const rows = shape.length < 2 ? flat
      : Array.from({ length: shape[0] }, (_, row) => flat.subarray(row * shape[1], (row + 1) * shape[1]));
    unpacked.set(packed, rows);
  }
  return unpacked.get(packed);
}

// The page's own ink and paper, and for dark paper the memories' lighter colors.
function colors_of(el) {
  const page_style = getComputedStyle(document.body);
  const variable = (...names) => names.map((name) => page_style.getPropertyValue(name).trim()).find(Boolean);
  const paper = variable("--jp-layout-color0", "--vscode-editor-background") || "#ffffff";
  const ink = variable("--jp-content-font-color1", "--vscode-editor-foreground") || getComputedStyle(el).color;
  const dark = lightness(paper) < 0.5;
  return { dark, paper, ink, map: new Map([...(dark ? DARK : []), [INK, ink], ["white", paper],
           [GRID, dark ? "rgba(255,255,255,0.16)" : GRID], [VEIL, dark ? "rgba(0,0,0,0.7)" : VEIL]]) };
}

function lightness(color) {
  const brush = document.createElement("canvas").getContext("2d");
  brush.fillStyle = color;
  brush.fillRect(0, 0, 1, 1);
  const [red, green, blue] = brush.getImageData(0, 0, 1, 1).data;
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
}

// A copy of a figure for plotly, which writes into what it is given. Arrays that need no other color are shared.
function dressed(tree, map) {
  if (typeof tree === "string") return map.get(tree) ?? tree;
  if (Array.isArray(tree)) {
    const plain = tree.every((item) => item === null || (typeof item !== "object" && !map.has(item)));
    return plain ? tree : tree.map((item) => dressed(item, map));
  }
  if (tree === null || typeof tree !== "object") return tree;
  if ("bdata" in tree) return numbers(tree);
  return Object.fromEntries(Object.entries(tree).map(([key, value]) => [key, dressed(value, map)]));
}

// -- the widget --------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const frame = document.createElement("div");
  el.classList.add("nl-plot");
  el.append(frame);
  el.dataset.model = whole(model)?.model_id;
  let state = "clean", gone = false, shown_width = 0;

  async function draw() {
    state = "drawing";
    const Plotly = await plotly(model);
    const width = Math.round(el.clientWidth);
    if (gone || !width) return;
    const figure = model.get("figure"), { map, ink } = colors_of(el);
    const data = dressed(figure.data, map), layout = dressed(figure.layout, map);
    const most = figure.layout.width ?? MOST_WIDTH, least = Math.min(most, model.get("least_width"));
    shown_width = width;
    const view = el.closest(".nl-view"), steps = Boolean(view?.querySelector(".nl-step"));
    // Keys step it, or scroll what scrolls. The attribute is never taken away in between: the focus would go with it.
    if (steps || width < least) el.tabIndex = 0;
    else el.removeAttribute("tabindex");
    Object.assign(layout, { width: Math.max(least, Math.min(most, width)), autosize: false, uirevision: "same" });
    layout.font = { ...layout.font, color: ink };
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
    await Plotly.react(frame, data, layout, options);
    frame.dataset.revision = figure.revision;
    name_controls(view);
    listen();
  }

  // However many changes come while one is drawn: the next drawing shows the last of them.
  async function changed() {
    if (state !== "clean") return void (state = "changed");
    do {
      state = "waiting";
      await take_turn(el, draw);
    } while (state === "changed" && !gone);
    state = "clean";
  }

  let listening = false;
  function listen() {
    if (listening) return;
    listening = true;
    frame.on("plotly_click", ({ points: [point] }) =>
      model.send({ click: { trace: point.curveNumber, point: point.pointIndex ?? point.pointNumber } }));
  }

  const name = () => { el.setAttribute("role", "img"); el.setAttribute("aria-label", model.get("label")); };
  name();
  el.addEventListener("pointerdown", () => el.focus({ preventScroll: true }));  // does nothing where no key would
  model.on("change:label", name);
  model.on("change:figure", changed);
  const size = new ResizeObserver(() => { if (el.clientWidth && Math.round(el.clientWidth) !== shown_width) changed(); });
  size.observe(el);
  const theme = new MutationObserver(changed);
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light", "data-vscode-theme-id"] });
  return () => {
    gone = true;
    size.disconnect();
    theme.disconnect();
    if (listening) page.plotly?.then((Plotly) => Plotly.purge(frame));
  };
}

export default {
  initialize({ model }) {
    model.on("msg:custom", (message) => heard(model, message));
    alive(model, { revision: model.get("figure").revision });
  },
  render,
};
