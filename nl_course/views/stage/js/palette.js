// Colors: one per symbol, the same in formulas, diagrams and here: key, value and error are those of SYMBOLS in
// views/kit/theme.py. Surprise is a fill behind words here, so it is lighter. Ink and paper come from the page around.
import { clamp } from "./numbers.js";

export const SYMBOLS = {
  light: { key: "#0A71C0", value: "#88280A", error: "#D41771", surprise: "#E69F00", plus: "#6A1B7B", minus: "#15703A",
    ink: "#1B1F24", soft: "#59626E", faint: "#E3E6EA", paper: "#FFFFFF", panel: "#F7F8FA", outer: "#C12D86" },
  dark: { key: "#3FA9FF", value: "#FBA173", error: "#EE7389", surprise: "#F2B01E", plus: "#C58BE0", minus: "#5CC98A",
    ink: "#ECEFF3", soft: "#A9B3BF", faint: "#3A424D", paper: "#15191E", panel: "#1D2329", outer: "#F06FB8" },
};
export const MEMORIES = {
  light: { attention: "#1437DC", titans: "#A87A06", "gated-delta": "#0086E0", "ttt-linear": "#003A36",
    "self-modifying": "#7A3200" },
  dark: { attention: "#8FA4FF", titans: "#EBB63A", "gated-delta": "#5FC0FF", "ttt-linear": "#4FC9BC",
    "self-modifying": "#E39A66" },
};
export const DASHES = { attention: [], titans: [9, 4], "gated-delta": [9, 3, 2, 3], "ttt-linear": [5, 4],
  "self-modifying": [12, 3, 3, 3] };

const parsed = new Map();

/** Red, green and blue of "#rrggbb", 0 .. 255. */
export function channels(hex) {
  if (!parsed.has(hex)) parsed.set(hex, [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return parsed.get(hex);
}

export function alpha(hex, share) {
  const [red, green, blue] = channels(hex);
  return `rgba(${red},${green},${blue},${clamp(share).toFixed(3)})`;
}

/** A signed number on a fixed scale: paper at 0, the two colors at +1 and -1. Small numbers are lifted to be seen. */
export function signed(colors, number) {
  const share = Math.pow(clamp(Math.abs(number)), 0.65);
  const far = channels(number >= 0 ? colors.plus : colors.minus);
  const near = channels(colors.paper);
  const [red, green, blue] = near.map((from, i) => Math.round(from + (far[i] - from) * share));
  return `rgb(${red},${green},${blue})`;
}

/** Whether the page around an element is dark: by the first background behind it that is not transparent. */
export function isDark(element) {
  for (let node = element.parentElement; node; node = node.parentElement) {
    const found = getComputedStyle(node).backgroundColor.match(/[\d.]+/g);
    if (!found) continue;
    const [red, green, blue, opacity = 1] = found.map(Number);
    if (opacity > 0.5) return 0.3 * red + 0.59 * green + 0.11 * blue < 110;
  }
  return false;
}

export function colorsFor(dark) {
  const theme = dark ? "dark" : "light";
  return { ...SYMBOLS[theme], memories: MEMORIES[theme], dark };
}
