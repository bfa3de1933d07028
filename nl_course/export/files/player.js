// The figures of a page without a kernel. The live widget's own code, which stands before this, draws them; a view's
// controls move it along the grid that came with it (nl_course/views/kit/grid.py).

// What the widget takes for its model: a state that says when it changes.
function model_of(state) {
  const listeners = {};
  return {
    get: (key) => state[key],
    set(key, value) {
      state[key] = value;
      for (const call of listeners[`change:${key}`] ?? []) call();
    },
    on(event, call) { (listeners[event] ??= []).push(call); },
    off() {},
    send() {},
  };
}

async function gunzipped(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// What differs from the opening picture where the controls stand at these stops: path -> value.
function edits_at(axes, changes, stops) {
  const edits = {};
  for (const [path, on, values, which] of changes) {
    const place = on.reduce((sum, axis) => sum * axes[axis].stops.length + stops[axis], 0);
    if (which[place]) edits[path] = values[which[place] - 1];
  }
  return edits;
}

function play(view, model, { figure, said, grid }) {
  const opening = { said, wrong: false, data: { ...figure.data }, layout: figure.layout };
  const controls = [...view.querySelectorAll("[data-axis]")];
  const sentence = view.querySelector("[role=status]");
  let changes = null;
  async function moved() {
    changes ??= gunzipped(grid.changes);
    const known = await changes, stops = controls.map((control) => Number(control.value));
    const now = patched(opening, edits_at(grid.axes, known, stops));
    controls.forEach((control, axis) => {
      if (control.type !== "range") return;
      const words = grid.axes[axis].stops[stops[axis]];
      control.setAttribute("aria-valuetext", words);
      control.nextElementSibling.textContent = words;
    });
    view.classList.toggle("nl-wrong", now.wrong);
    sentence.textContent = now.said;
    const data = Object.values(now.data).filter((trace) => trace.type);  // a trace that is gone has lost all its keys
    model.set("figure", { revision: model.get("figure").revision + 1, data, layout: now.layout });
  }
  for (const control of controls) control.addEventListener("input", moved);
}

// The figures' colors follow the page's: `render` looks at this attribute.
const dark = matchMedia("(prefers-color-scheme: dark)");
const dress = () => { document.body.dataset.jpThemeName = dark.matches ? "dark" : "light"; };
dark.addEventListener("change", dress);
dress();

page.plotly ??= Promise.resolve(window.Plotly);
for (const el of document.querySelectorAll("[data-figure]")) {
  const shown = window.nlFigures[el.dataset.figure];
  const { figure, label, least_width } = shown;
  const model = model_of({ figure: { revision: 0, ...figure }, label, least_width });
  widget.render({ model, el });
  if (shown.grid) play(el.closest(".view"), model, shown);
}
for (const button of document.querySelectorAll(".nl-veil button")) {
  button.addEventListener("click", () => {
    const view = button.closest(".view");
    view.classList.remove("nl-covered");
    view.querySelector("input, select")?.focus();  // the button is gone
  });
}
