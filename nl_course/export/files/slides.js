// One slide in sight; arrow keys, space, Home and End turn them; the address remembers the place. O shows all of them
// small, N the speaker's notes under the slide, S a window of the speaker's own with notes, what comes next and a clock.
const slides = [...document.querySelectorAll("section.slide")];
let at = Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), slides.length) - 1;
let speaker = null;  // the speaker's window
let begun = null;  // when it was opened

function show(number) {
  at = Math.min(Math.max(number, 0), slides.length - 1);
  slides.forEach((slide, i) => { slide.hidden = i !== at; });
  document.getElementById("place").textContent = `${at + 1} of ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
  slides[at].scrollTop = 0;
  tell();
}

// -- overview ---------------------------------------------------------------------------------------------------
function overview(on) {
  document.body.classList.toggle("overview", on);
  slides.forEach((slide) => {
    if (on) slide.tabIndex = 0;
    else slide.removeAttribute("tabindex");
  });
  if (on) {
    slides[at].scrollIntoView({ block: "center" });
    slides[at].focus();
  }
}
const in_overview = () => document.body.classList.contains("overview");

function choose(event) {
  const slide = event.target.closest("section.slide");
  if (!in_overview() || !slide) return;
  event.preventDefault();
  event.stopPropagation();
  overview(false);
  show(slides.indexOf(slide));
}
document.addEventListener("click", choose, true);

// -- notes ------------------------------------------------------------------------------------------------------
const notes = () => document.body.classList.toggle("with-notes");

function heading_of(number) {
  return slides[number]?.querySelector("h1, h2").textContent ?? "the end";
}

function tell() {
  if (!speaker || speaker.closed) return;
  const { document: page } = speaker;
  const minutes = Math.floor((Date.now() - begun) / 60000);
  page.getElementById("where").textContent = `${at + 1} of ${slides.length}, ${minutes} min`;
  page.getElementById("now").textContent = heading_of(at);
  page.getElementById("said").innerHTML = slides[at].querySelector(".notes").innerHTML;
  page.getElementById("next").textContent = `Next: ${heading_of(at + 1)}`;
}

function open_speaker() {
  speaker = window.open("", "speaker", "width=700,height=800");
  if (!speaker) return;  // the browser does not allow it; N shows the notes here
  begun = Date.now();
  speaker.document.body.innerHTML = "<p id='where'></p><h1 id='now'></h1><div id='said'></div><p id='next'></p>";
  speaker.document.title = "Notes";
  speaker.document.body.style = "font: 20px/1.5 system-ui, sans-serif; margin: 1rem 1.5rem";
  speaker.document.onkeydown = on_key;
  tell();
}
setInterval(tell, 10000);

// -- keys -------------------------------------------------------------------------------------------------------
function on_key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, select, textarea")) return;  // a control of a view has these keys to itself
  if (event.target.closest?.("button, a, summary") && event.key === " ") return;
  if (in_overview() && event.key === "Enter") return choose(event);
  const does = { o: () => overview(!in_overview()), n: notes, s: open_speaker, Escape: () => overview(false) }[event.key];
  if (does) return does();
  if (in_overview()) return;
  const to = { ArrowRight: at + 1, PageDown: at + 1, " ": at + 1, ArrowLeft: at - 1, PageUp: at - 1,
               Home: 0, End: slides.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(to);
}

document.getElementById("back").onclick = () => show(at - 1);
document.getElementById("on").onclick = () => show(at + 1);
document.getElementById("overview").onclick = () => overview(!in_overview());
document.getElementById("notes").onclick = notes;
document.getElementById("speaker").onclick = open_speaker;
document.addEventListener("keydown", on_key);
window.addEventListener("hashchange", () => show((parseInt(location.hash.slice(1)) || 1) - 1));
show(at);
