/**
 * The client against a real gateway over WebSocket: GATESVR names its command, such as
 * "python -m gatesvr". The certificate is the gateway's own for development.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import test from "node:test";
import { WebSocket } from "ws";
import { Client, SessionLost } from "../dist/index.js";
import { until } from "./gateway.mjs";

const command = process.env.GATESVR;
const skip = command ? false : "GATESVR names no command of a gateway";

/** `ws` that accepts the development certificate. */
class Trusting extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { rejectUnauthorized: false });
  }
}

/** Run a gateway with its demo services; return its web address and what ends it. */
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
  const address = await new Promise((resolve, reject) => {
    let found = "";
    for (const stream of [gateway.stdout, gateway.stderr]) {
      createInterface(stream).on("line", (line) => {
        lines.push(line);
        found ||= /gateway_started .*\bweb=(\S+)/.exec(line)?.[1] ?? "";
        if (found && /Try it/.test(line)) resolve(found);
      });
    }
    exited.then(([code]) =>
      reject(new Error(`the gateway ended with ${code}:\n${lines.join("\n")}`)),
    );
  });
  return { address, end: (signal = "SIGKILL") => (gateway.kill(signal), exited) };
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
