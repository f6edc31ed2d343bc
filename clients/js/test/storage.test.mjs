/** Where a session is kept over a reload, and how two tabs never share one. */

import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket } from "ws";
import { Client } from "../dist/index.js";
import { Clock, Gateway, Type, until } from "./gateway.mjs";
import { Locks, Storage } from "./tab.mjs";

async function setUp(t) {
  const gateway = await Gateway.open();
  const clock = new Clock();
  const locks = new Locks();
  const clients = [];
  t.after(async () => {
    await gateway.close();
    await Promise.all(clients.map((client) => clock.settle(client.close())));
  });
  const open = (storage, options = {}) => {
    const client = new Client(gateway.url, {
      openid: "ann",
      WebSocket,
      storage,
      locks,
      environment: { ...clock },
      ...options,
    });
    clients.push(client);
    return client;
  };
  return { gateway, clock, locks, open };
}

/** Connect a client; return the gateway's connection and the START it got. */
async function connect({ gateway, clock }, client, fields = {}) {
  const connecting = client.connect();
  const connection = await clock.settle(gateway.next());
  const start = await connection.take(Type.START);
  const isResumed = start.body.sessionId !== "";
  connection.started(start, { sessionId: `s${connection.number}`, resumed: isResumed, ...fields });
  if (fields.state !== 2) connection.answer(await connection.take(Type.BUSINESS), 1);
  await connecting;
  return { connection, start };
}

test("a reload resumes behind what was read, without a repeat and without a hole", async (t) => {
  const all = await setUp(t);
  const { clock, locks, open } = all;
  const storage = new Storage();
  const first = open(storage);
  const { connection } = await connect(all, first);
  for (let seq = 2; seq <= 5; seq++) connection.notify(seq);
  const reader = first.notifies();
  assert.equal((await reader.next()).value.serverSeq, 2);
  assert.equal((await reader.next()).value.serverSeq, 3);
  reader.next(); // done with 3
  await clock.advance(200);
  assert.equal((await connection.find(Type.ACK)).body.ackedSeqId, 3);
  await until(() => /"position":3/.test(storage.getItem("gatesvr")));
  connection.cut(); // the page goes, and its lock with it
  const [name] = storage.getItem("gatesvr").split(" ");
  locks.held.delete(`gatesvr:${name}`);
  const second = open(storage);
  const { start, connection: next } = await connect(all, second, {
    sessionId: "s1",
    state: 2,
    replayFrom: 4,
    replayTo: 5,
  });
  assert.deepEqual(
    [start.body.sessionId, start.body.lastAckedSeqId, start.body.attempt],
    ["s1", 3, 1],
  );
  next.notify(4);
  assert.equal((await second.notifies().next()).value.serverSeq, 4);
});

test("a duplicated tab has a session of its own, and keeps it", async (t) => {
  const all = await setUp(t);
  const { open } = all;
  const storage = new Storage();
  await connect(all, open(storage));
  const copy = storage.duplicate();
  const { start } = await connect(all, open(copy));
  assert.equal(start.body.sessionId, "");
  assert.match(storage.getItem("gatesvr"), /"s1"/);
  assert.match(copy.getItem("gatesvr"), /"s2"/);
  assert.notEqual(storage.getItem("gatesvr").split(" ")[0], copy.getItem("gatesvr").split(" ")[0]);
});

test("after close() nothing is left to resume, and the lock is free", async (t) => {
  const all = await setUp(t);
  const { clock, locks, open } = all;
  const storage = new Storage();
  const client = open(storage);
  const { connection } = await connect(all, client);
  const closing = client.close();
  await connection.find(Type.STOP);
  connection.close(0);
  await clock.settle(closing);
  await until(() => locks.held.size === 0);
  const { start } = await connect(all, open(storage));
  assert.equal(start.body.sessionId, "");
});

test("suspend() leaves the session to the next page", async (t) => {
  const all = await setUp(t);
  const { open } = all;
  const storage = new Storage();
  const client = open(storage);
  await connect(all, client);
  await client.suspend();
  const { start } = await connect(all, open(storage), { sessionId: "s1", state: 2 });
  assert.equal(start.body.sessionId, "s1");
});

test("another user's state, or none at all, begins a session; so does a page without locks", async (t) => {
  const all = await setUp(t);
  const { open } = all;
  const storage = new Storage();
  const ann = open(storage);
  await connect(all, ann);
  await ann.suspend();
  const bob = await connect(all, open(storage, { openid: "bob" }));
  assert.deepEqual([bob.start.body.sessionId, bob.start.body.openid], ["", "bob"]);
  const broken = new Storage([["gatesvr", "name {broken"]]);
  assert.equal((await connect(all, open(broken, { locks: null }))).start.body.sessionId, "");
});

test("close() while connect() waits for the lock ends it, and frees the lock", async (t) => {
  const { locks, open } = await setUp(t);
  const client = open(new Storage());
  const connecting = client.connect();
  await client.close();
  await assert.rejects(connecting, /the client is closed/);
  await until(() => locks.held.size === 0);
  assert.equal(client.state, "closed");
});

test("a storage that is not there is told", () => {
  const open = () => new Client("http://127.0.0.1:1/", { openid: "ann", storage: true });
  assert.throws(open, /there is no sessionStorage here/);
});
