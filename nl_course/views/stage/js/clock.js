// Time on the stage. Reading runs at so many words per second, and lingers where much is written: a byte whose write is
// large gets an event of its own, long enough to be seen. Every frame is a byte t and a phase, 0 .. 1, of its write.
import { clamp, ease } from "./numbers.js";

export const EVENT = 1.1; // seconds that the largest writes take
export const LINGERS_FROM = 0.5; // share of the largest write from which reading slows down

/** Seconds for each byte, while reading `perSecond` words a second. */
export function durations(take, replayed, perSecond, lingers = true) {
  const seconds = new Array(replayed.writes.length);
  for (const [first, last] of take.words) {
    for (let t = first; t <= last; t++) seconds[t] = 1 / perSecond / (last - first + 1);
  }
  if (!lingers) return seconds;
  return seconds.map((plain, t) => {
    const share = replayed.writes[t].moved / replayed.mostMoved;
    return plain + (EVENT - plain) * ease(share, LINGERS_FROM, 1) * clamp(10 / perSecond, 0.2, 4);
  });
}

/** Which byte is being written so many seconds after byte `from` began, and how far its write is. */
export function at(seconds, from, elapsed) {
  let t = from;
  let left = elapsed;
  while (t < seconds.length - 1 && left >= seconds[t]) left -= seconds[t++];
  return { t, phase: clamp(left / seconds[t]), over: t === seconds.length - 1 && left >= seconds[t] };
}

/** How far each part of a write is at a phase of it: 1 read the key, 2 predict, 3 see the value, 4 the error, 5 write. */
export function parts(phase) {
  return {
    key: ease(phase, 0, 0.14),
    prediction: ease(phase, 0.1, 0.3),
    value: ease(phase, 0.24, 0.4),
    error: ease(phase, 0.36, 0.5),
    stamp: ease(phase, 0.44, 0.58),
    flight: ease(phase, 0.56, 0.92),
    written: ease(phase, 0.78, 0.97),
  };
}
