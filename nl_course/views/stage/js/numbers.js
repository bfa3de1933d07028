// Numbers: unpacking what Python packed, and the few curves that movement needs. Nothing here knows of drawing.

export const clamp = (x, low = 0, high = 1) => Math.min(high, Math.max(low, x));
export const mix = (a, b, share) => a + (b - a) * share;

/** Where x stands between two places, 0 before and 1 after, eased at both ends. */
export function ease(x, from = 0, to = 1) {
  const share = clamp((x - from) / (to - from));
  return share * share * (3 - 2 * share);
}

/** A half-precision number from its 16 bits. */
export function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** {shape, f16 or f32} -> {shape, data}, a Float32Array in row order. */
export function unpack(form) {
  const text = atob(form.f16 ?? form.f32);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const size = form.f16 === undefined ? 4 : 2;
  const data = new Float32Array(bytes.length / size);
  for (let i = 0; i < data.length; i++) {
    data[i] = size === 2 ? half(view.getUint16(2 * i, true)) : view.getFloat32(4 * i, true);
  }
  return { shape: form.shape, data };
}

export function largest(values) {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

export const count = (number) => Math.round(number).toLocaleString("en-US");

/** A probability as a reader says it. */
export function percent(share) {
  if (share < 0.005) return "0 %";
  return share > 0.995 ? "100 %" : `${Math.round(100 * share)} %`;
}
