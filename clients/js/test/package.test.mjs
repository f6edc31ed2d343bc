/** The package: its README's examples run, its size, its content, its types, where its tools come from. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import * as gatesvr from "../dist/index.js";
import { Gateway, Type } from "./gateway.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (name) => readFileSync(`${root}/${name}`, "utf8");
const AsyncFunction = (async () => undefined).constructor;

/** Answer as the demo's services do, and push three notifies. */
async function play(gateway) {
  const connection = await gateway.next();
  connection.started(await connection.take(Type.START));
  for (let seq = 1; ; seq++) {
    const request = await connection.requests.take();
    if (request.type === Type.STOP) return connection.close(0);
    if (request.type !== Type.BUSINESS) {
      seq--;
    } else if (request.body.action === "no_such_action") {
      connection.error(request, seq, 404);
    } else {
      connection.answer(request, seq, { data: request.body.data });
      if (request.body.action === "hello") {
        for (const title of ["first", "second", "last"]) connection.notify(++seq, title);
      }
    }
  }
}

const examples = [...read("README.md").matchAll(/```js\n(.*?)```/gs)].map((match) => match[1]);
examples.forEach((example, at) => {
  test(`example ${at + 1} of the README runs`, async (t) => {
    const gateway = await Gateway.open();
    t.after(() => gateway.close());
    const playing = play(gateway);
    const clients = [];
    class Client extends gatesvr.Client {
      constructor(url, options) {
        assert.equal(url, "https://localhost:8443/gatesvr");
        const items = new Map();
        const storage = {
          getItem: (key) => items.get(key) ?? null,
          setItem: (key, value) => items.set(key, value),
        };
        super(gateway.url, { WebSocket, ...options, ...(options.storage && { storage }) });
        clients.push(this);
      }
    }
    const lines = [];
    const code = example.replace(/^import .*$/gm, "");
    const scope = {
      ...gatesvr,
      Client,
      WebSocket,
      console: { log: (...line) => lines.push(line) },
    };
    await new AsyncFunction(...Object.keys(scope), code)(...Object.values(scope));
    for (const client of clients) await client.close();
    await playing;
    if (/200 hello/.test(example)) assert.deepEqual(lines, [[200, "hello"]]);
    if (/notify/.test(example))
      assert.deepEqual(
        lines.map(([seq]) => seq),
        [2, 3, 4].slice(0, lines.length),
      );
    if (/no_such/.test(example)) assert.deepEqual(lines.at(-1), [404, 0, 0]);
  });
});

test("the README has examples", () => assert.ok(examples.length >= 5));

test("the bundle is at most 16 KiB gzipped, and stands alone", () => {
  const bundle = read("dist/bundle.js");
  const size = gzipSync(bundle, { level: 9 }).length;
  assert.ok(size <= 16 * 1024, `${size} bytes`);
  assert.doesNotMatch(bundle, /\bimport\b|\brequire\(|BigInt|\d+n\b/);
});

test("npm packs the code, the types, README and licence, and nothing else", () => {
  const listed = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: root,
    encoding: "utf8",
  });
  const files = JSON.parse(listed)[0]
    .files.map((file) => file.path)
    .sort();
  const modules = readdirSync(`${root}/src`).map((name) => name.replace(".ts", ""));
  const expected = modules.flatMap((name) => [`dist/${name}.js`, `dist/${name}.d.ts`]);
  assert.deepEqual(files, [...expected, "LICENSE", "README.md", "package.json"].sort());
  const own = JSON.parse(read("package.json"));
  assert.equal(own.dependencies, undefined);
  assert.match(read("../../pyproject.toml"), new RegExp(`^version = "${own.version}"$`, "m"));
  assert.equal(read("LICENSE"), read("../../LICENSE"));
});

test("the examples' types hold under tsc --strict", () => {
  execFileSync("npx", ["--no-install", "tsc", "-p", "examples"], { cwd: root, encoding: "utf8" });
});

test("the tools come from npm's own registry, at exact versions", () => {
  const { packages } = JSON.parse(read("package-lock.json"));
  for (const [name, { resolved, integrity }] of Object.entries(packages)) {
    if (name === "") continue;
    assert.ok(integrity.startsWith("sha512-"), name);
    if (resolved !== undefined) assert.match(resolved, /^https:\/\/registry\.npmjs\.org\//, name);
  }
  assert.doesNotMatch(
    read("package-lock.json").replace(/https:\/\/registry\.npmjs\.org\//g, ""),
    /"resolved": "http/,
  );
  for (const version of Object.values(JSON.parse(read("package.json")).devDependencies)) {
    assert.match(version, /^\d+\.\d+\.\d+$/);
  }
});
