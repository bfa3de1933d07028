// The outer loop: which training step's model reads, and how the loss of the answer walks back through the writes.

export function makeOuter(parent, { id, make, onCheckpoint, changed }) {
  const row = make("div", { class: "nl-stage-dial" });
  parent.append(row);
  return {
    setTake(take, memory, index) {
      row.replaceChildren();
      const steps = memory.checkpoints.map((checkpoint) => checkpoint.step);
      parent.hidden = steps.length < 2;
      const input = make("input", { type: "range", id: id("outer"), min: 0, max: steps.length - 1, step: 1, value: index,
        list: id("steps"), "aria-valuetext": `${steps[index]} outer steps`, onchange: () => onCheckpoint(Number(input.value)) });
      row.append(make("label", { for: id("outer"), text: "Outer loop: trained for" }), input,
        make("output", { for: id("outer"), text: `${steps[index].toLocaleString("en-US")} steps` }));
    },
    draw() {},
  };
}
