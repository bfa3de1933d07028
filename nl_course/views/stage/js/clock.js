// Time on the stage. Reading runs at so many words per second, and slows down for the fact: there each write is an event
// of its own, long enough to be seen. Every frame is a byte t and a phase, 0 .. 1, of its write.
import { clamp, ease, mix } from "./numbers.js";

export const EVENT = 1.1; // seconds that the largest writes take
export const SMALL_EVENT = 0.6; // seconds that the smallest writes of the fact take

/** Whether reading slows down for byte t: from the first byte of the fact to the first one after it. */
export const slowed = (take, t) => take.fact.first <= t && t <= take.fact.last + 1;

/** Seconds for each byte, while reading `perSecond` words a second. */
export function durations(take, replayed, perSecond) {
  const seconds = new Array(replayed.writes.length);
  for (const [first, last] of take.words) {
    for (let t = first; t <= last; t++) seconds[t] = 1 / perSecond / (last - first + 1);
  }
  return seconds.map((plain, t) => {
    if (!slowed(take, t)) return plain;
    const share = clamp(replayed.writes[t].moved / replayed.mostMoved);
    return Math.max(plain, mix(SMALL_EVENT, EVENT, share) * clamp(10 / perSecond, 0.5, 4));
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
