/** The client keeps every rule of `gatesvr conformance`; GATESVR names the command. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import test from "node:test";

const command = process.env.GATESVR;
const adapter = fileURLToPath(new URL("../conformance.mjs", import.meta.url));

test("no rule of the protocol is broken", { skip: command ? false : "no GATESVR" }, async () => {
  const [program, ...args] = command.split(" ");
  const client = `"${process.execPath}" "${adapter}"`;
  const kit = spawn(program, [...args, "conformance", "--slow", "4", "--command", client]);
  let said = "";
  for (const stream of [kit.stdout, kit.stderr]) stream.on("data", (data) => (said += data));
  const [code] = await once(kit, "close");
  assert.equal(code, 0, said);
  assert.match(said, /\d+ kept, 0 broken: gatesvr \(JavaScript\) over websocket/);
});
