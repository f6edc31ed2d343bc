// An upstream on @grpc/grpc-js. Prints its port; leaves when its standard input ends.
//
//   node server.js PROTOS [-unary] [-age MS] [-streams N]
//
// -unary: without ProcessStream. -age: the longest life of a connection. -streams: at a time on one.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { HealthImplementation } = require("grpc-health-check");

const [protos, ...flags] = process.argv.slice(2);

const { gatesvr } = grpc.loadPackageDefinition(
  loader.loadSync(path.join(protos, "upstream.proto"), { keepCase: true, longs: String }),
);

const health = new HealthImplementation({ "": "SERVING" });

// Actions: echo, or "wait MS", "fail STATUS TEXT", "large BYTES", "health STATUS".
function answer(request, done) {
  const [action, value, ...text] = request.action.split(" ");
  if (action === "health") health.setStatus("", value);
  const reply = (data) =>
    done(null, {
      code: 200,
      message: "node",
      data,
      client_seq_id: request.client_seq_id,
      request_id: request.request_id,
    });
  if (action === "wait") setTimeout(reply, Number(value), request.data);
  else if (action === "fail") done({ code: Number(value), details: text.join(" ") });
  else if (action === "large") reply(Buffer.alloc(Number(value), 7));
  else reply(request.data);
}

const service = {
  ProcessRequest: (call, done) => answer(call.request, done),
  ProcessStream: (call) => {
    let open = 0;
    let isEnded = false;
    const endIfDone = () => isEnded && open === 0 && call.end();
    call.sendMetadata(new grpc.Metadata());
    call.on("data", ({ requests }) => {
      for (const request of requests) {
        open += 1;
        answer(request, (error, response) => {
          open -= 1;
          const failed = error && { code: 500, message: error.details, request_id: request.request_id };
          call.write({ responses: [failed || response] });
          endIfDone();
        });
      }
    });
    call.on("end", () => {
      isEnded = true;
      endIfDone();
    });
  },
};
if (flags.includes("-unary")) delete service.ProcessStream;

const options = {
  "grpc.max_receive_message_length": 16 << 20,
  "grpc.max_send_message_length": 16 << 20,
};
const named = {
  "-age": "grpc.max_connection_age_ms",
  "-streams": "grpc.max_concurrent_streams",
};
for (const [flag, option] of Object.entries(named)) {
  if (flags.includes(flag)) options[option] = Number(flags[flags.indexOf(flag) + 1]);
}
const server = new grpc.Server(options);
server.addService(gatesvr.proto.UpstreamService.service, service);
health.addToServer(server);
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
});

process.stdin.on("end", () => process.exit(0)).resume();
