// One slide in sight; arrow keys, space, Home and End turn them; the address remembers the place.
const slides = [...document.querySelectorAll("section.slide")];
let at = Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), slides.length) - 1;

function show(number) {
  at = Math.min(Math.max(number, 0), slides.length - 1);
  slides.forEach((slide, i) => { slide.hidden = i !== at; });
  document.getElementById("place").textContent = `${at + 1} of ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
  slides[at].scrollTop = 0;
}

document.getElementById("back").onclick = () => show(at - 1);
document.getElementById("on").onclick = () => show(at + 1);
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select")) return;  // a control of a view has these keys to itself
  if (event.target.closest("button, a, summary") && event.key === " ") return;
  const to = { ArrowRight: at + 1, PageDown: at + 1, " ": at + 1, ArrowLeft: at - 1, PageUp: at - 1,
               Home: 0, End: slides.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(to);
});
window.addEventListener("hashchange", () => show((parseInt(location.hash.slice(1)) || 1) - 1));
show(at);
