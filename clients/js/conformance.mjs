/**
 * This client behind the JSON lines of `gatesvr conformance` (docs/conformance.md): it reads
 * commands from standard input and prints events. Build the client first.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { WebSocket } from "ws";
import { Client, NotifyOverflow, RequestFailed, SessionLost } from "./dist/index.js";

const FIRST_PAUSE_MS = 500;
const OUTCOMES = ["unknown", "not_started", "done"];

let client = null;
let options = {};
let state = "";

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const text = (data) => new TextDecoder().decode(data);

function begin(command, resume) {
  options = command;
  const ca = readFileSync(command.ca);
  const tokens = [...(command.tokens ?? [])];
  client = new Client(command.url, {
    openid: command.openid,
    clientId: command.client_id,
    token: tokens.length ? () => (tokens.length > 1 ? tokens.shift() : tokens[0]) : undefined,
    transports: ["websocket"],
    WebSocket: class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, { ca });
      }
    },
    environment: {
      random: () => (Math.random() * (command.backoff_ms ?? FIRST_PAUSE_MS)) / FIRST_PAUSE_MS,
    },
    onState: command.stored ? (stored) => (state = stored) : undefined,
    resume,
  });
  void live(client);
}

/** Connect, and tell of everything until the client is closed. */
async function live(mine) {
  const tell = (event) => mine === client && say(event);
  mine.on("lost", ({ firstSeq, lastSeq }) => tell({ event: "lost", from: firstSeq, to: lastSeq }));
  try {
    await mine.connect();
  } catch (error) {
    return tell({ event: "failed", code: error.code ?? 0, message: error.message });
  }
  tell({ event: "connected" });
  let code = 0;
  for (let isOpen = true; isOpen;) {
    try {
      for await (const { serverSeq, data } of mine.notifies()) {
        tell({ event: "notify", seq: serverSeq, data: text(data) });
      }
      isOpen = false;
    } catch (error) {
      if (error instanceof NotifyOverflow) {
        tell({ event: "lost", from: error.firstSeq, to: error.lastSeq });
      } else if (error instanceof SessionLost && !error.isFinal) {
        tell({ event: "session_lost" });
      } else {
        code = error.code;
        isOpen = false;
      }
    }
  }
  tell({ event: "closed", code });
}

async function request({ id, action, data }) {
  const mine = client;
  let event;
  try {
    const answer = await mine.request(action, data);
    event = { event: "answer", id, code: answer.code, data: text(answer.data) };
  } catch (error) {
    const isAnswered = error instanceof RequestFailed || error instanceof SessionLost;
    event = {
      event: "error",
      id,
      code: isAnswered ? error.code : 0,
      outcome: isAnswered ? OUTCOMES[error.outcome] : "not_started",
      retry_after_ms: error.retryAfterMs ?? 0,
      message: error.message,
    };
  }
  if (mine === client) say(event);
}

/** Let go of the client, without a word to the gateway about the session. */
async function drop() {
  const mine = client;
  client = null;
  await mine?.suspend();
}

const commands = {
  connect: (command) => begin(command, undefined),
  request,
  stop: () => client.close(),
  async restart() {
    // What a new process would find: the state as it was stored last.
    const stored = state;
    await drop();
    begin(options, stored);
  },
  async end() {
    await drop();
    say({ event: "ended" });
  },
};

say({
  event: "ready",
  client: "gatesvr (JavaScript)",
  transports: ["websocket"],
  features: ["state", "renew"],
});
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  void commands[command.do]?.(command);
}
process.exit(0);
