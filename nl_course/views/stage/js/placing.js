// A live model reads the learner's own text, with a fact that is dropped into it.
import { clamp } from "./numbers.js";

/** The row of fields after `above`. `words` takes the dropped fact, `letterAt(node)` is the byte of a letter there, `at()`
 *  the byte that is read; `send({text, key, answer, place})` is called with what the learner asks for. */
export function makePlacing(above, { id, make, words, letterAt, at, send }) {
  const box = make("input", { type: "text", id: id("text"), class: "nl-stage-own" });
  const key = make("input", { type: "text", id: id("key"), size: 6 });
  const answer = make("input", { type: "text", id: id("answer"), size: 6 });
  const chip = make("button", { type: "button", class: "nl-stage-chip", draggable: true,
    title: "Drag it to a place in the text above, or press it to put the fact before the word that is read" });
  let fact = null;
  let spelled = null; // the bytes of the text with the fact in it
  let place = 0; // characters before the fact
  const wish = () => send({ text: box.value, key: key.value, answer: answer.value, place });
  const naming = () => { chip.textContent = `⠿ <${key.value}:${answer.value}>`; };
  const characters = (from, to) => new TextDecoder().decode(spelled.slice(from, to)).length;

  function drop(t) {
    // A place in the text as it is without the fact and the line breaks around it.
    const { first, last } = fact;
    const before = characters(0, Math.min(t, first));
    place = t <= last ? before : before + characters(last + 2, t);
    place = clamp(place, 0, box.value.length);
    wish();
  }

  for (const input of [box, key, answer]) input.addEventListener("change", wish);
  for (const input of [key, answer]) input.addEventListener("input", naming);
  chip.addEventListener("click", () => drop(at()));
  chip.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", "fact"));
  words.addEventListener("dragover", (event) => event.preventDefault());
  words.addEventListener("drop", (event) => {
    event.preventDefault();
    const t = letterAt(event.target);
    if (t >= 0) drop(t);
  });
  above.after(make("div", { class: "nl-stage-placing" },
    make("label", { for: id("text"), text: "Your text" }), box,
    make("label", { for: id("key"), text: "fact" }), key,
    make("label", { for: id("answer"), text: "is" }), answer, chip));
  return { setTake(take, bytes) {
    fact = take.fact;
    spelled = bytes;
    place = characters(0, Math.max(0, fact.first - 1));
    box.value = take.plain;
    key.value = fact.key;
    answer.value = fact.answer;
    naming();
  } };
}
