// Every write of one head, replayed from its keys, values and gates (see nl_course/record/stage/reading.py):
//
//     e_t = k_t W - v_t,    S_t = momentum_t S - step_t k_t^T e_t,    W_t = keep_t W + S_t
//
// `errors` says where W stands when it answers: "before" as it was, "faded" times keep_t. Where it is "erased", the write
// also takes away what stood under the key: step_t k_t^T (e_t + k_t W) in place of step_t k_t^T e_t.
// Matrices lie in row order, m rows (one per number of the key), f columns (one per number of the value).
import { unpack } from "./numbers.js";

export const AS_LEARNED = { step: 1, momentum: 1, keep: 1 };
const MOST_MOMENTUM = 0.99;

/** One write: what W says, what it gets wrong, and what it is afterwards. `gains` turn the three gates. */
export function writeOnce(head, t, W, S, gains = AS_LEARNED) {
  const { m, f } = head;
  const key = head.key.subarray(t * m, (t + 1) * m);
  const value = head.value.subarray(t * f, (t + 1) * f);
  const step = head.step[t] * gains.step;
  const turned = gains.momentum === 1 ? head.momentum[t] : Math.min(MOST_MOMENTUM, head.momentum[t] * gains.momentum);
  const keep = head.keep[t] * gains.keep;
  const fade = head.errors === "faded" ? keep : 1;

  const prediction = new Float64Array(f);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < f; j++) prediction[j] += key[i] * W[i * f + j] * fade;
  }
  const error = prediction.map((said, j) => said - value[j]);
  const written = head.errors === "erased" ? error.map((wrong, j) => wrong + prediction[j]) : error;

  const nextS = new Float64Array(m * f);
  const nextW = new Float64Array(m * f);
  const own = new Float64Array(m * f); // this token's own part of the write, without what momentum brings
  let taken = 0;
  let moved = 0;
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < f; j++) {
      const at = i * f + j;
      own[at] = -step * key[i] * written[j];
      nextS[at] = turned * S[at] + own[at];
      nextW[at] = keep * W[at] + nextS[at];
      taken += ((1 - keep) * W[at]) ** 2;
      moved += (nextW[at] - W[at]) ** 2;
    }
  }
  let before = 0;
  let after = 0;
  for (let j = 0; j < f; j++) {
    let said = 0;
    for (let i = 0; i < m; i++) said += key[i] * nextW[i * f + j];
    before += error[j] ** 2 / 2;
    after += (said - value[j]) ** 2 / 2;
  }
  return {
    key, value, prediction, error, own, W: nextW, S: nextS, before, after, step, keep, momentum: turned,
    taken: Math.sqrt(taken), moved: Math.sqrt(moved),
  };
}

/** A head as JSON -> its arrays by plain names. */
export function unpackHead(form) {
  const names = ["key", "value", "step", "momentum", "keep", "start"];
  const arrays = Object.fromEntries(names.map((name) => [name, unpack(form[name]).data]));
  return { ...arrays, layer: form.layer, head: form.head, errors: form.errors, m: form.key.shape[1],
    f: form.value.shape[1], tokens: form.key.shape[0] };
}

/** All writes of a head, one after the other. `writes[t]` is that of token t; `W(t)` stands before it, W(tokens) last. */
export function replay(form) {
  const head = unpackHead(form);
  let W = Float64Array.from(head.start);
  let S = new Float64Array(W.length);
  const writes = [];
  const matrices = [W];
  const momenta = [S];
  for (let t = 0; t < head.tokens; t++) {
    const write = writeOnce(head, t, W, S);
    ({ W, S } = write);
    writes.push(write);
    matrices.push(W);
    momenta.push(S);
  }
  const scale = quantile(writes.flatMap((write) => [...write.W].map(Math.abs)), 0.998);
  const errors = quantile(writes.flatMap((write) => [...write.error, ...write.value].map(Math.abs)), 0.985);
  const shown = writes.flatMap((write) => [...write.value, ...write.prediction]);
  const surprise = writes.map((write) => norm(write.key) * norm(write.error));
  return {
    head, writes, scale, errors, surprise,
    high: Math.max(0.05, quantile(shown, 0.997)), low: -Math.max(0.05, quantile(shown.map((number) => -number), 0.997)),
    keys: quantile([...head.key].map(Math.abs), 0.99),
    mostSurprise: quantile(surprise, 0.985),
    mostMoved: quantile(writes.map((write) => write.moved), 0.985),
    W: (t) => matrices[t],
    S: (t) => momenta[t],
  };
}

export function norm(values) {
  let total = 0;
  for (const value of values) total += value * value;
  return Math.sqrt(total);
}

/** The value below which that share of the numbers lies; at least a hair above 0. */
export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return Math.max(1e-6, sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
}
