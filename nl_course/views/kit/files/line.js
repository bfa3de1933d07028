export default {
  initialize({ model }) { alive(model, { text: model.get("text") }); },
  render({ model, el }) {
    const role = model.get("role");
    el.setAttribute("role", role);
    el.setAttribute("aria-live", role === "alert" ? "assertive" : "polite");
    el.classList.add("nl-line");
    const show = () => { el.textContent = model.get("text"); };
    model.on("change:text", show);
    show();
  },
};
