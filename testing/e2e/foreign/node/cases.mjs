// Drives the shop with @connectrpc/connect, over each of the protocols that it speaks.
//
// One case a run: `node cases.mjs PROTOCOL CASE`, with where the shop is in FORMIC_E2E as JSON. A case that fails throws.
// Messages are made from descriptors at run time, so that no generator has to be installed.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";

const places = JSON.parse(process.env.FORMIC_E2E);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(places.descriptors)));
const BadRequest = registry.getMessage("google.rpc.BadRequest");
const ErrorInfo = registry.getMessage("google.rpc.ErrorInfo");
const OrderState = { PLACED: 1, CONFIRMED: 6 };

// No call of these cases takes longer unless it is meant to.
const timeoutMs = 60_000;

const sessions = [];

function http2(baseUrl) {
  const sessionManager = new Http2SessionManager(baseUrl);
  sessions.push(sessionManager);
  return { baseUrl, httpVersion: "2", sessionManager };
}

const protocols = {
  "connect-json-http1": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  "connect-proto-http1": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true }),
  "connect-json-http2": (baseUrl) => createConnectTransport({ ...http2(baseUrl), useBinaryFormat: false }),
  "connect-get-http1": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1", useHttpGet: true }),
  "grpc-http2": (baseUrl) => createGrpcTransport(http2(baseUrl)),
  "grpc-web-http1": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  "grpc-web-http2": (baseUrl) => createGrpcWebTransport(http2(baseUrl)),
};

const [, , protocol, name] = process.argv;
const gateway = protocols[protocol](`http://${places.gateway}`);
const to = (typeName, transport = gateway) => createClient(registry.getService(typeName), transport);
const users = to("shop.user.v1.UserService");
const products = to("shop.product.v1.ProductService");
const orders = to("shop.order.v1.OrderService");

/** A new customer; returns the headers that speak for them. */
async function logIn() {
  const login = { email: `connect-${randomUUID()}@example.org`, password: "correct horse battery" };
  await users.register({ ...login, name: "Ada" }, { timeoutMs });
  const { token } = await users.logIn(login, { timeoutMs });
  return { authorization: `Bearer ${token}` };
}

async function fillCart(headers) {
  await products.addToCart({ productId: "bankers-lamp", quantity: 1 }, { headers, timeoutMs });
}

function order(number = "4242424242424242") {
  return {
    idempotencyKey: randomUUID(),
    card: { number, expiry: "12/34", cvc: "123" },
    address: { name: "Ada", street: "Weg 1", city: "Ort", postalCode: "10115", country: "DE" },
  };
}

/** The error that a call must end in. */
async function refusal(call) {
  try {
    await call();
  } catch (error) {
    assert(error instanceof ConnectError, String(error));
    return error;
  }
  assert.fail("answered");
}

function details(error, type) {
  const found = error.findDetails(type);
  assert.equal(found.length, 1, `no ${type.typeName} in ${JSON.stringify(error.details)}`);
  return found[0];
}

const cases = {
  async unary() {
    const found = await products.search({ text: "lamp" }, { timeoutMs });
    assert(found.products.length > 0);
    for (const product of found.products) {
      assert.match(JSON.stringify([product.name, product.description, product.tags]).toLowerCase(), /lamp/);
      assert(product.price.minorUnits > 0n, "64-bit numbers arrive");
    }
    const headers = await logIn();
    let answered;
    const profile = await users.getProfile({}, { headers, timeoutMs, onHeader: (h) => (answered = h) });
    assert.equal(profile.profile.name, "Ada");
    assert(answered.get("x-request-id"));
  },

  async server_streaming() {
    const headers = await logIn();
    await fillCart(headers);
    let placed = false;
    const placing = orders.place(order(), { headers, timeoutMs }).finally(() => (placed = true));
    let known = [];
    const until = Date.now() + timeoutMs;
    while (known.length === 0 && Date.now() < until) {
      known = (await orders.list({}, { headers, timeoutMs })).orders;
    }
    const { orderId } = known[0];
    const states = [];
    for await (const message of orders.watch({ orderId, fromStart: true }, { headers, timeoutMs })) {
      if (states.length === 0) assert(!placed, "the first state comes before the last");
      states.push(message.state);
    }
    assert.equal(states[0], OrderState.PLACED);
    assert.equal(states.at(-1), OrderState.CONFIRMED);
    assert.equal((await placing).order.orderId, orderId);
  },

  async deadline() {
    const headers = await logIn();
    await fillCart(headers);
    // The slow card keeps the processor busy for a minute, and the gateway waits for a quarter of one.
    const started = Date.now();
    const error = await refusal(() => orders.place(order("4000000000000077"), { headers, timeoutMs: 500 }));
    assert.equal(error.code, Code.DeadlineExceeded, String(error));
    assert(Date.now() - started < 12_000, "the limit is kept");
    await orders.list({}, { headers, timeoutMs });
  },

  async errors_with_details() {
    let error = await refusal(() => users.register({ email: "none", password: "x", name: "Ada" }, { timeoutMs }));
    assert.equal(error.code, Code.InvalidArgument, String(error));
    const fields = details(error, BadRequest).fieldViolations.map((violation) => violation.field);
    assert(fields.includes("email") && fields.includes("password"), String(fields));

    const headers = await logIn();
    await fillCart(headers);
    error = await refusal(() => orders.place(order("4000000000000002"), { headers, timeoutMs }));
    assert.equal(error.code, Code.FailedPrecondition, String(error));
    const info = details(error, ErrorInfo);
    assert.equal(info.reason, "CARD_DECLINED");
    assert.equal(info.metadata.decline_code, "card_declined");
  },

  async codes() {
    let error = await refusal(() => products.get({ id: "none" }, { timeoutMs }));
    assert.equal(error.code, Code.NotFound, String(error));
    error = await refusal(() => users.getProfile({}, { timeoutMs }));
    assert.equal(error.code, Code.Unauthenticated, String(error));
    const hidden = to("shop.payment.v1.PaymentService");
    error = await refusal(() => hidden.get({ paymentId: "x" }, { timeoutMs }));
    assert([Code.Unimplemented, Code.NotFound].includes(error.code), String(error));
  },

  async bidirectional() {
    // Reflection is the bidirectional stream that every service has.
    const service = protocols[protocol](`http://${places.services.order}`);
    const reflection = to("grpc.reflection.v1.ServerReflection", service);
    const questions = new Questions();
    const answers = reflection.serverReflectionInfo(questions, { timeoutMs })[Symbol.asyncIterator]();
    const ask = async (messageRequest) => {
      // Asked when the answer before it is there: both directions are open at once.
      questions.ask({ messageRequest });
      return (await answers.next()).value.messageResponse;
    };
    const listed = await ask({ case: "listServices", value: "" });
    assert.equal(listed.case, "listServicesResponse");
    assert(listed.value.service.some((service) => service.name === "shop.order.v1.OrderService"));
    const files = await ask({ case: "fileContainingSymbol", value: "shop.order.v1.OrderService" });
    assert.equal(files.case, "fileDescriptorResponse");
    assert(files.value.fileDescriptorProto.length > 0);
    const unknown = await ask({ case: "fileContainingSymbol", value: "no.Such" });
    assert.equal(unknown.case, "errorResponse");
    assert.equal(unknown.value.errorCode, Code.NotFound);
    questions.end();
    assert.equal((await answers.next()).done, true);
  },
};

/** A stream of requests that waits for what it is given. */
class Questions {
  #waiting = [];
  #given = [];

  ask(question) {
    this.#give({ value: question, done: false });
  }

  end() {
    this.#give({ value: undefined, done: true });
  }

  #give(result) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(result);
    else this.#given.push(result);
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      const { value, done } = this.#given.shift() ?? (await new Promise((resolve) => this.#waiting.push(resolve)));
      if (done) return;
      yield value;
    }
  }
}

await cases[name]();
for (const session of sessions) session.abort();
console.log(`passed: ${protocol} ${name}`);
