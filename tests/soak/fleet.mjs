/**
 * The JavaScript clients of a soak: as clients.py, in Node. The plan comes as the argument; commands
 * come, and answers go, as lines of JSON. Its clock is the machine's monotonic one, as the others'.
 */

import { createInterface } from "node:readline";
import { WebSocket } from "../../clients/js/node_modules/ws/wrapper.mjs";
import { Connector } from "../../clients/js/dist/connector.js";
import { Client, LostReason, RequestFailed, SessionLost } from "../../clients/js/dist/index.js";

const plan = JSON.parse(process.argv[2]);
const CONNECTING = 20;
const REASONS = Object.fromEntries(Object.entries(LostReason).map(([name, n]) => [n, name]));

const history = [];
const now = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const text = (data) => Buffer.from(data).toString();

function tell(method, args, options = {}) {
  history.push([now(), method, args, options]);
}

/** mulberry32: the same numbers for the same seed. */
function dice(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

class Trusting extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { rejectUnauthorized: false });
  }
}

/** A client that tells the history what it is handed. */
class Device {
  counts = {};
  #asked = 0;
  #seen = 0;
  #unread = [];
  #isCalm = false;
  #isOver = false;
  #workers = [];

  constructor(number, [host, port]) {
    this.name = `client${number}`;
    this.random = dice(plan.seed * 1_000 + number);
    this.client = new Client(`wss://${host}:${port}/gatesvr`, {
      openid: this.name,
      WebSocket: Trusting,
      connectTimeout: 15_000,
      requestTimeout: 60_000,
      maxNotifies: 100_000,
    });
  }

  count(name) {
    this.counts[name] = (this.counts[name] ?? 0) + 1;
  }

  /** What the session is handed, before the client handles it, in the order of the server's seqs. */
  told(event) {
    const id = this.client.sessionId;
    switch (event.kind) {
      case "answered": {
        this.#seen = event.seq;
        const action = text(event.data).split("/").at(-1);
        const order = plan.actions[action]?.order ?? "";
        tell("delivered", [id, event.seq], { client_seq: event.clientSeq, order });
        break;
      }
      case "notified":
        this.#seen = event.seq;
        this.#unread.push(event.seq);
        tell("delivered", [id, event.seq], { push: text(event.data) });
        break;
      case "failed":
        if (event.seq) {
          this.#seen = event.seq;
          tell("delivered", [id, event.seq], { client_seq: event.clientSeq, code: event.code });
        }
        break;
      case "lost":
        this.#seen = event.seq;
        tell("lost", [id, event.fromSeq, event.seq, REASONS[event.reason]]);
        break;
      case "started": {
        const { sessionId, connectionId, resumed } = event.response;
        tell("started", [this.name, sessionId || connectionId], { is_resumed: resumed });
        this.count(resumed ? "resumes" : "sessions");
        break;
      }
      case "reset":
        tell("session_lost", [this.name, event.sessionId, REASONS[event.reason]]);
        break;
      case "refused":
        this.count(`start_refused_${event.code}`);
        break;
      case "goaway":
        this.count("goaways");
        break;
      case "ignored":
      case "kicked":
        tell("broken", [id, `unexpected: ${JSON.stringify(event)}`]);
    }
  }

  begin() {
    this.client.on("state", (state) => {
      if (state === "closed" && !this.#isOver) {
        tell("broken", [this.client.sessionId, `${this.name}'s session ended`]);
      }
    });
    void this.#read();
    for (let n = 0; n < plan.workers; n++) this.#workers.push(this.#work());
  }

  async finish() {
    this.#isCalm = true;
    await Promise.race([Promise.all(this.#workers), sleep(plan.settle_s * 1e3)]);
  }

  async settle(lastSeqs) {
    const last = lastSeqs[this.client.sessionId] ?? 0;
    const end = now() + plan.settle_s;
    while ((this.#seen < last || this.#unread.length) && now() < end) await sleep(10);
    if (this.#seen < last || this.#unread.length) {
      const why = `at ${this.#seen} of ${last}, ${this.#unread.length} not read`;
      tell("broken", [this.client.sessionId, why]);
    }
  }

  async close() {
    this.#isOver = true;
    const end = now() + plan.settle_s;
    while (!this.client.isConnected && now() < end) await sleep(10);
    await this.client.close();
  }

  async #work() {
    const actions = Object.entries(plan.actions);
    const total = actions.reduce((sum, [, { weight }]) => sum + weight, 0);
    while (!this.#isCalm) {
      let left = this.random() * total;
      const [action] = actions.find(([, { weight }]) => (left -= weight) < 0) ?? actions[0];
      await this.#ask(action);
      await sleep(-Math.log(1 - this.random()) * plan.pause_s * 1e3);
    }
  }

  async #ask(action) {
    const name = `${this.name}/${++this.#asked}/${action}`;
    tell("asked", [this.name, name]);
    this.count("requests");
    try {
      const answer = await this.client.request(action, name);
      this.count("answers");
      tell("answered", [this.name, name, answer.text, answer.code]);
    } catch (error) {
      if (error instanceof RequestFailed) {
        this.count(`failed_${error.code}_outcome_${error.outcome}`);
        tell("failed", [this.name, name, error.code, error.outcome]);
      } else if (error instanceof SessionLost) {
        this.count("failed_session_lost");
        tell("failed", [this.name, name, 0, error.outcome]);
      } else {
        throw error;
      }
    }
  }

  async #read() {
    const notifies = this.client.notifies();
    for (;;) {
      try {
        const { value, done } = await notifies.next();
        if (done) return;
        this.count("notifies");
        const expected = this.#unread.shift() ?? 0;
        if (value.serverSeq !== expected) {
          const why = `the application read ${value.serverSeq} in the place of ${expected}`;
          tell("broken", [this.client.sessionId, why]);
        }
      } catch (error) {
        if (this.#isOver) return;
        tell("broken", [this.client.sessionId, `iteration: ${error}`]);
        if (error.isFinal) return;
      }
    }
  }
}

const devices = new Map(
  plan.addresses.map((address, n) => {
    const device = new Device(plan.first + n, address);
    return [device.name, device];
  }),
);
const all = (does) => Promise.all([...devices.values()].map(does));

const handleEvents = Connector.prototype.handleEvents;
Connector.prototype.handleEvents = function (events, at) {
  const device = devices.get(this.session.openid);
  for (const event of events) device.told(event);
  handleEvents.call(this, events, at);
};

function counts() {
  const total = {};
  for (const device of devices.values()) {
    for (const [name, n] of Object.entries(device.counts)) total[name] = (total[name] ?? 0) + n;
  }
  return { js: total };
}

const say = (what, then) => process.stdout.write(`${JSON.stringify(what)}\n`, then);

const waiting = [...devices.values()];
await Promise.all(
  Array.from({ length: CONNECTING }, async () => {
    for (let device; (device = waiting.pop());) await device.client.connect();
  }),
);
say("ready");
for await (const line of createInterface(process.stdin)) {
  const command = JSON.parse(line);
  if (command === "begin") {
    await all((device) => device.begin());
  } else if (command === "counts") {
    say(counts());
  } else if (command === "calm") {
    await all((device) => device.finish());
    say("calm");
  } else if (command === "stop") {
    const counted = counts();
    const calls = history.splice(0); // what comes from here on is not judged: sessions end
    await all((device) => device.close());
    say([calls, counted], () => process.exit(0));
  } else {
    await all((device) => device.settle(command));
    say("settled");
  }
}
