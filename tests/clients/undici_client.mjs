// Node's undici through the gateway: one URL allowed, one refused.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { ProxyAgent, request } = createRequire(process.env.INSTALLED + "/")("undici");

const proxy = new URL(process.env.PROXY);
const credentials = Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64");
const dispatcher = new ProxyAgent({
  uri: proxy.origin,
  token: `Basic ${credentials}`,
  requestTls: { ca: readFileSync(process.env.CA) },
});

const answer = await request(`${process.env.ALLOWED}/hello`, { dispatcher });
console.log("allowed:", await answer.body.text());

try {
  await request(`${process.env.REFUSED}/hello`, { dispatcher });
} catch (error) {
  console.log("refused:", error.message);
  process.exit(0);
}
console.log("the refused URL was fetched");
process.exit(1);
