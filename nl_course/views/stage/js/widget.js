// The stage as a widget: the take comes from Python, what the learner asks for goes back.
import { mount } from "./stage.js";

function render({ model, el }) {
  const stage = mount(el, model.get("take"), {
    live: model.get("live"),
    request: (kind, data) => {
      model.set("wish", { kind, data, number: (model.get("wish")?.number ?? 0) + 1 });
      model.save_changes();
    },
  });
  const changed = () => stage.setTake(model.get("take"));
  model.on("change:take", changed);
  return () => {
    model.off("change:take", changed);
    stage.destroy();
  };
}

export default { render };
