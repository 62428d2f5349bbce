// Knows prices. Node's own modules only: Formic says by PORT where to listen, and that is all it has to know.

import { createServer } from "node:http";

const PRICES = { lamp: 4900, chair: 12900, pen: 250 };
const by = `node ${process.versions.node}`;
const instance = process.env.FORMIC_INSTANCE ?? "alone";

const server = createServer((request, response) => {
  const item = decodeURIComponent(new URL(request.url, "http://prices").pathname.slice(1));
  const cents = Object.hasOwn(PRICES, item) ? PRICES[item] : undefined;
  const status = item === "" || cents !== undefined ? 200 : 404;
  const value = item === "" ? { items: Object.keys(PRICES) } : cents === undefined ? { error: `no price for ${item}` } : { item, cents };
  const body = JSON.stringify({ ...value, by, instance });
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  response.end(request.method === "HEAD" ? undefined : body);
});

server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log(`listening on ${process.env.PORT}`));
process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
