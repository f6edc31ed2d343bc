/**
 * The client against a real gateway over WebSocket: GATESVR names its command, such as
 * "python -m gatesvr". The certificate is the gateway's own for development.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { Client, SessionLost } from "../dist/index.js";
import { until } from "./gateway.mjs";
import { Relay } from "./relay.mjs";
import { Locks, Storage } from "./tab.mjs";

const command = process.env.GATESVR;
const page = fileURLToPath(new URL("page.mjs", import.meta.url));
const OFFLINE_MS = 5_000;
const skip = command ? false : "GATESVR names no command of a gateway";

/** `ws` that accepts the development certificate. */
class Trusting extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { rejectUnauthorized: false });
  }
}

/** Run a gateway with its demo services; return its addresses and what ends it. */
async function serve(bind = "127.0.0.1:0") {
  const [program, ...args] = command.split(" ");
  const gateway = spawn(
    program,
    [
      ...args,
      "serve",
      "--demo",
      "--admin",
      "off",
      "--bind",
      "127.0.0.1:0",
      "--grpc-bind",
      "127.0.0.1:0",
      "--set",
      `transport.web.bind=${bind}`,
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  const exited = once(gateway, "exit");
  const lines = [];
  const [address, quic] = await new Promise((resolve, reject) => {
    let found = "";
    for (const stream of [gateway.stdout, gateway.stderr]) {
      createInterface(stream).on("line", (line) => {
        lines.push(line);
        found ||= /gateway_started .*\bweb=(\S+)/.exec(line)?.[1] ?? "";
        const call = / call echo --server (\S+)/.exec(line);
        if (found && call) resolve([found, call[1]]);
      });
    }
    exited.then(([code]) =>
      reject(new Error(`the gateway ended with ${code}:\n${lines.join("\n")}`)),
    );
  });
  return { address, quic, end: (signal = "SIGKILL") => (gateway.kill(signal), exited) };
}

/** Run `gatesvr client --state` over QUIC: it asks for an echo, and keeps the session. */
async function echoOverQuic(server, file, text) {
  const [program, ...args] = command.split(" ");
  const client = spawn(
    program,
    [...args, "client", "--server", server, "--openid", "quinn", "--insecure", "--state", file],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const exited = once(client, "exit");
  client.stdin.write(`echo -- ${text}\n`);
  for await (const line of createInterface(client.stdout)) {
    if (line === text) client.kill("SIGINT"); // the end of its input would end the session
  }
  await exited;
}

/** A page's process; told() says what it printed, each line as [server seq, content]. */
function openPage(address, file) {
  const process_ = spawn(process.execPath, [page, address, file], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(process_, "exit");
  const lines = [];
  let session = "";
  createInterface(process_.stdout).on("line", (line) => {
    const [seq, content] = line.split(" ");
    if (seq === "session") session = content;
    else lines.push([Number(seq), content]);
  });
  return {
    told: () => lines,
    session: () => session,
    kill: () => (process_.kill("SIGKILL"), exited),
  };
}

function open(address, openid, options = {}) {
  return new Client(`https://${address}/gatesvr`, { openid, WebSocket: Trusting, ...options });
}

test("a real gateway", { skip, timeout: 120_000 }, async (t) => {
  let gateway;
  try {
    gateway = await serve();
  } catch (error) {
    if (!/transport\.web/.test(error.message)) throw error;
    t.skip("this gateway has no transport.web");
    return;
  }
  t.after(() => gateway.end());
  const { address } = gateway;
  const ann = open(address, "ann");
  const bob = open(address, "bob");
  t.after(() => Promise.all([ann.close(), bob.close()]));
  await Promise.all([ann.connect(), bob.connect()]);
  assert.equal(ann.transport, "websocket");
  assert.notEqual(ann.sessionId, bob.sessionId);
  const reader = ann.notifies();

  await t.test("1,000 requests, each answered by its own answer", async () => {
    const numbers = Array.from({ length: 1_000 }, (_, n) => n);
    const answers = await Promise.all(numbers.map((n) => ann.request("echo", `${n}`)));
    assert.deepEqual(
      answers.map((answer) => Number(answer.text)),
      numbers,
    );
  });

  await t.test("bound notifies stand around their answer, in order", async () => {
    for (let round = 0; round < 20; round++) {
      const asked = ann.request("notify_demo", "x", { params: { before: "2", after: "2" } });
      const seqs = [];
      for (const word of ["before 1", "before 2", "after 1", "after 2"]) {
        const { value } = await reader.next();
        assert.equal(Buffer.from(value.data).toString(), word);
        seqs.push(value.serverSeq);
      }
      const { serverSeq } = await asked;
      assert.deepEqual(seqs, [serverSeq - 2, serverSeq - 1, serverSeq + 1, serverSeq + 2]);
    }
  });

  await t.test("pushes", async () => {
    await bob.request("broadcast", "to all");
    const { value } = await reader.next();
    assert.deepEqual([value.title, Buffer.from(value.data).toString()], ["bob", "to all"]);
  });

  await t.test("cut again and again in mid-stream: nothing lost, nothing twice", async () => {
    const told = [];
    const done = (async () => {
      while (told.length < 200) told.push(Buffer.from((await reader.next()).value.data).toString());
    })();
    const answers = [];
    for (let n = 0; n < 200; n++) {
      answers.push(ann.request("notify_demo", `${n}`, { params: { before: "0", after: "1" } }));
      if (n % 40 === 20) {
        ann.drop();
        await until(() => ann.isConnected);
      } else if (n % 10 === 0) {
        await answers.at(-1);
      }
    }
    const got = await Promise.all(answers);
    assert.deepEqual(
      got.map((answer) => Number(answer.text)),
      got.map((_, n) => n),
    );
    await done;
    assert.deepEqual(new Set(told), new Set(["after 1"]));
    assert.equal(ann.connects.resumed, 5);
    assert.equal(ann.counters.lost + ann.counters.sessionLosses, 0);
  });

  await t.test("killed and back in mid-stream: each number once, in order", async () => {
    const folder = mkdtempSync(join(tmpdir(), "gatesvr-"));
    const file = join(folder, "session");
    const last = 150;
    let pages = 1;
    let eve = openPage(address, file);
    const seen = new Map(); // by server seq: what was read last may come again
    const take = () => {
      for (const [seq, content] of eve.told().splice(0)) {
        if (seen.has(seq)) assert.equal(seen.get(seq), content);
        else seen.set(seq, content);
      }
      return seen.size;
    };
    try {
      const session = await until(() => eve.session());
      for (let n = 1; n <= last; n++) {
        await bob.request("chat_say", `${n}`);
        if (n % 50 === 25) {
          await until(() => take() > n - 20);
          await eve.kill();
          take();
          eve = openPage(address, file);
          pages++;
          assert.equal(await until(() => eve.session()), session);
        }
      }
      await until(() => take() >= last);
      const seqs = [...seen.keys()];
      assert.deepEqual(
        seqs,
        seqs.map((_, n) => seqs[0] + n),
      );
      assert.deepEqual(
        [...seen.values()],
        seqs.map((_, n) => `${n + 1}`),
      );
      assert.equal(pages, 4);
    } finally {
      await eve.kill();
      rmSync(folder, { recursive: true });
    }
    while ((await reader.next()).value.content !== `${last}`);
  });

  await t.test("two tabs with one storage have two sessions", async () => {
    const storage = new Storage();
    const locks = new Locks();
    const one = open(address, "tab", { storage, locks });
    await one.connect();
    const copy = open(address, "twin", { storage: storage.duplicate(), locks });
    await copy.connect();
    assert.notEqual(one.sessionId, copy.sessionId);
    for (const tab of [one, copy]) {
      assert.equal((await tab.request("echo", tab.openid)).text, tab.openid);
    }
    await Promise.all([one.close(), copy.close()]);
  });

  await t.test("offline for five seconds, and back: nothing is lost", async () => {
    const relay = await Relay.open(address);
    const window = new EventTarget();
    const kim = open(relay.address, "kim", { environment: { window } });
    try {
      await kim.connect();
      const lines = kim.notifies();
      relay.offline();
      window.dispatchEvent(new Event("offline"));
      await until(() => kim.state === "reconnecting");
      const asked = kim.request("echo", "asked while offline");
      for (let n = 1; n <= 20; n++) await bob.request("chat_say", `line ${n}`);
      await new Promise((resolve) => setTimeout(resolve, OFFLINE_MS));
      assert.equal(kim.isConnected, false);
      relay.online();
      window.dispatchEvent(new Event("online"));
      assert.equal((await asked).text, "asked while offline");
      for (let n = 1; n <= 20; n++) {
        assert.equal((await lines.next()).value.content, `line ${n}`);
      }
      assert.deepEqual([kim.connects, kim.counters.lost], [{ total: 2, resumed: 1 }, 0]);
      while ((await reader.next()).value.content !== "line 20");
    } finally {
      await kim.close();
      relay.close();
    }
  });

  await t.test("a session goes from QUIC to WebSocket and back", async () => {
    const folder = mkdtempSync(join(tmpdir(), "gatesvr-"));
    const file = join(folder, "state");
    try {
      await echoOverQuic(gateway.quic, file, "over QUIC");
      const { client_id, session_id, resume_token, ...saved } = JSON.parse(readFileSync(file));
      const names = { clientId: client_id, sessionId: session_id, resumeToken: resume_token };
      const quinn = open(address, "quinn", { resume: JSON.stringify({ ...saved, ...names }) });
      await quinn.connect();
      assert.equal(quinn.sessionId, session_id);
      assert.equal(quinn.connects.resumed, 1);
      assert.equal((await quinn.request("echo", "over WebSocket")).text, "over WebSocket");
      const { clientId, sessionId, resumeToken, ...state } = JSON.parse(await quinn.suspend());
      const back = { client_id: clientId, session_id: sessionId, resume_token: resumeToken };
      writeFileSync(file, JSON.stringify({ ...state, ...back }));
      await echoOverQuic(gateway.quic, file, "over QUIC again");
      assert.equal(JSON.parse(readFileSync(file)).session_id, session_id);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  await t.test("a state goes to another client, and the first one stays away", async () => {
    const eve = open(address, "eve");
    await eve.connect();
    const { sessionId } = eve;
    const state = await eve.suspend();
    const next = open(address, "eve", { resume: state });
    await next.connect();
    assert.equal(next.sessionId, sessionId);
    assert.equal((await next.request("echo", "again")).text, "again");
    await next.close();
  });

  await t.test("a login of the same openid kicks, and the kicked stays kicked", async () => {
    const first = open(address, "joe");
    await first.connect();
    let kicks = 0;
    first.on("kicked", () => kicks++);
    const told = first.notifies().next();
    const second = open(address, "joe");
    await second.connect();
    await assert.rejects(
      told,
      (error) => error instanceof SessionLost && error.isFinal && error.code === 4410,
    );
    assert.deepEqual([kicks, first.state, first.connects.total], [1, "closed", 1]);
    await second.close();
  });

  await t.test(
    "a gateway that is killed and is back: SessionLost once, then a new session",
    async () => {
      const { sessionId } = ann;
      const lost = assert.rejects(reader.next(), (error) => {
        assert.deepEqual([error.sessionId, error.isFinal], [sessionId, false]);
        return error instanceof SessionLost;
      });
      await gateway.end();
      gateway = await serve(address);
      await lost;
      assert.equal((await ann.request("echo", "new")).text, "new");
      assert.notEqual(ann.sessionId, sessionId);
      assert.equal(ann.counters.sessionLosses, 1);
      await bob.request("broadcast", "after");
      assert.equal(Buffer.from((await reader.next()).value.data).toString(), "after");
    },
  );

  await t.test("a gateway that is ended in order says so", async () => {
    const goaways = [];
    ann.on("goaway", ({ reason }) => goaways.push(reason));
    const ending = gateway.end("SIGTERM");
    await until(() => goaways.length > 0);
    await ending;
    gateway = await serve(address);
    assert.equal((await ann.request("echo", "back")).text, "back");
  });
});
