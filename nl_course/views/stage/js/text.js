// The text in reading order. Each letter takes the color of the memory's surprise when it is read.
import { alpha } from "./palette.js";
import { clamp } from "./numbers.js";

/** Builds the words into `parent`. Returns {show(t, run, colors), letters}. `onPick(t)` is called for a clicked letter. */
export function makeText(parent, take, bytes, onPick) {
  parent.replaceChildren();
  const letters = [];
  for (const [first, last] of take.words) {
    const word = document.createElement("span");
    word.className = "nl-stage-word";
    for (let t = first; t <= last; t++) {
      const letter = document.createElement("span");
      letter.className = "nl-stage-letter";
      const blank = bytes[t] === 32 || bytes[t] === 10;
      letter.textContent = blank ? " " : shown(bytes, t);
      if (blank) letter.classList.add("nl-stage-blank");
      letter.addEventListener("click", () => onPick(t));
      letters.push(letter);
      word.append(letter);
    }
    parent.append(word);
    // A line may break here, and nowhere inside a word.
    parent.append(document.createElement("wbr"));
  }
  let drawn = { t: -2 };
  const show = (t, run, colors) => {
    const same = drawn.run === run && drawn.colors === colors;
    const from = same ? Math.min(drawn.t, t) : 0;
    const to = same ? Math.max(drawn.t, t) : letters.length - 1;
    for (let i = Math.max(0, from); i <= to; i++) paint(letters[i], i, t, run, colors);
    drawn = { t, run, colors };
  };
  return { show, letters };
}

function shown(bytes, t) {
  return bytes[t] < 127 ? String.fromCharCode(bytes[t]) : "·";
}

function paint(letter, i, t, run, colors) {
  const read = i <= t;
  const share = clamp(run.surprise[i] / run.mostSurprise);
  const blank = letter.classList.contains("nl-stage-blank");
  letter.style.background = read && !blank ? alpha(colors.surprise, Math.pow(share, 1.3) * 0.95) : "transparent";
  // On the strongest color light letters would not be legible.
  letter.style.color = !read ? colors.soft : colors.dark && share > 0.72 ? "#15191E" : colors.ink;
  letter.classList.toggle("nl-stage-now", i === t);
}
