// What keyboards and screen readers need, for all views of a page at once.

const STEPS = { ArrowLeft: ".nl-back", ArrowRight: ".nl-step", " ": ".widget-play button" };
// What answers arrows or the space bar itself: these keys are its own.
const OWN_KEYS = "input, select, textarea, [contenteditable], .noUi-handle";

// Keys typed in a view are the view's: JupyterLab would take arrows to go from cell to cell, and letters to insert and
// delete cells (jupyter-widgets/ipywidgets, issue 3912). Its attribute says so, for keys without Ctrl, Alt or Meta. It
// must stand on the very element that has the focus: JupyterLab matches that one before it looks at those around it.
function keep_keys(event) {
  const view = event.target.closest?.(".nl-view");
  if (!view) return;
  const command = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape";
  const ours = !command && !(event.shiftKey && event.key === "Enter");
  event.target.toggleAttribute("data-lm-suppress-shortcuts", ours);
  if (ours && !event.shiftKey) step_by_key(view, event);
}

// Where nothing else answers them, arrows step a view that has Back, Step and Play, and the space bar plays it.
function step_by_key(view, event) {
  const presses_itself = event.key === " " && event.target.closest("button");
  const button = STEPS[event.key] && view.querySelector(STEPS[event.key]);
  if (!button || presses_itself || event.target.matches(OWN_KEYS)) return;
  event.preventDefault();
  button.click();
}

window.nlKeys ??= (window.addEventListener("keydown", keep_keys, true), true);

// Names that ipywidgets does not give: of slider handles, of their numbers, of Play's buttons, of groups.
function name_controls(view) {
  if (!view) return;
  const name = (part, words) => part.getAttribute("aria-label") ?? part.setAttribute("aria-label", words);
  for (const slider of view.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label")?.textContent ?? "";
    const handles = slider.querySelectorAll(".noUi-handle");
    handles.forEach((handle, i) => name(handle, handles.length > 1 ? `${label}, ${i ? "last" : "first"}` : label));
    for (const number of slider.querySelectorAll("[contenteditable]")) {
      number.setAttribute("role", "textbox");
      name(number, `${label}, as a number`);
    }
  }
  for (const play of view.querySelectorAll(".widget-play")) {
    const words = ["Play or pause", "Stop and go back", "Repeat"];
    play.querySelectorAll("button").forEach((button, i) => name(button, words[i] ?? "Play"));
  }
  for (const group of view.querySelectorAll(".widget-radio, .widget-toggle-buttons")) {
    group.setAttribute("role", group.classList.contains("widget-radio") ? "radiogroup" : "group");
    name(group, group.querySelector(".widget-label")?.textContent ?? "");
  }
}
