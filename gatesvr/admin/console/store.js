// What every view shares: the latest overview, the past of its figures, and whether it is live.

import { get, stream } from "./api.js";

const KEEP = 900;
const NAMES = [
  "requests", "answers", "pushes", "p50", "p99", "queue_messages", "in_flight", "sessions",
  "lag_s", "memory_bytes", "cpu", "refusals",
];

/** Sum of the sessions in all states. */
export function sessionsOf(overview) {
  return Object.values(overview.sessions).reduce((sum, number) => sum + number, 0);
}

function sample(overview) {
  const { rates, latency } = overview;
  return {
    requests: rates.requests,
    answers: rates.answers,
    pushes: rates.pushes,
    cpu: rates.cpu,
    p50: latency.request?.count ? latency.request.p50 : null,
    p99: latency.request?.count ? latency.request.p99 : null,
    queue_messages: overview.queue_messages,
    in_flight: overview.in_flight,
    sessions: sessionsOf(overview),
    lag_s: overview.lag_s,
    memory_bytes: overview.memory_bytes,
    refusals: overview.refusals.reduce((sum, refusal) => sum + refusal.rate, 0),
  };
}

class Store extends EventTarget {
  overview = null;
  state = "connecting"; // then "live", "reconnecting" or "login"
  time = [];
  series = Object.fromEntries(NAMES.map((name) => [name, []]));
  #stream = null;

  start() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#pause();
      else this.#resume();
    });
    window.addEventListener("gatesvr:login", () => {
      this.#pause();
      this.#become("login");
    });
    this.#resume();
  }

  /** Open the stream again, after a login. */
  retry() {
    this.#pause();
    this.#resume();
  }

  #pause() {
    this.#stream?.close();
    this.#stream = null;
  }

  #resume() {
    if (this.#stream) return;
    this.#stream = stream("stream", {
      overview: (overview) => this.#accept(overview),
      goodbye: () => this.#become("reconnecting"),
      $lost: () => {
        this.#become(this.overview ? "reconnecting" : "connecting");
        // A stream does not tell why it was refused; a request does, and a 401 asks for the token.
        get("overview").catch(() => null);
      },
    });
  }

  async #accept(overview) {
    const last = this.overview;
    this.overview = overview;
    const isRestarted = last !== null && last.pid !== overview.pid;
    const isGap = !this.time.length || overview.time - this.time.at(-1) > 3;
    if (isRestarted) this.dispatchEvent(new Event("restarted"));
    this.#append(overview.time, sample(overview));
    this.#become("live");
    this.dispatchEvent(new Event("overview"));
    if (isGap || isRestarted) await this.#load().catch(() => null);
  }

  #append(time, values) {
    if (time <= this.time.at(-1)) return;
    this.time.push(time);
    for (const name of NAMES) this.series[name].push(values[name] ?? null);
    if (this.time.length > KEEP) {
      this.time.shift();
      for (const name of NAMES) this.series[name].shift();
    }
  }

  // The server's past stands in place of ours where they overlap; an earlier process's stays.
  async #load() {
    const past = await get(`history?seconds=${KEEP}`);
    if (!past.time.length) return;
    const until = past.time[0];
    const after = this.time.findIndex((time) => time > past.time.at(-1));
    const keep = this.time.findIndex((time) => time >= until - 0.5);
    const before = keep < 0 ? this.time.length : keep;
    const tail = after < 0 ? this.time.length : after;
    const join = (own, theirs, gap) =>
      [...own.slice(0, before), ...gap, ...theirs, ...own.slice(tail)].slice(-KEEP);
    const isHole = before > 0 && until - this.time[before - 1] > 3;
    for (const name of NAMES) {
      this.series[name] = join(this.series[name], past.series[name] ?? [], isHole ? [null] : []);
    }
    this.time = join(this.time, past.time, isHole ? [until - 1] : []);
    this.dispatchEvent(new Event("overview"));
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

export const store = new Store();
