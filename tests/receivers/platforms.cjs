// Runs a receiver of an automation platform, as docs/receivers.md prints it, on deliveries from standard input, with just
// as much of the platform around it as it uses. Usage: platforms.cjs n8n|zapier|make FILE SECRET
// Prints a line for each delivery: `accepted NONCE`, or `refused REASON`.
'use strict';
const { createHmac } = require('node:crypto');
const { readFileSync } = require('node:fs');

const [kind, file, secret] = process.argv.slice(2);
const code = readFileSync(file, 'utf8');
const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;

// n8n's Code node: the webhook node's item, its raw body as binary data, fields in lower case as Node has them.
async function n8n({ headers, body }) {
  const node = new AsyncFunction('require', '$env', '$input', code);
  const context = {
    helpers: {
      getBinaryDataBuffer: async (index, name) => {
        if (index !== 0 || name !== 'data') throw new Error(`no binary data ${name} of item ${index}`);
        return body;
      },
    },
  };
  const input = { all: () => [{ json: { headers }, binary: { data: {} } }] };
  const items = await node.call(context, require, { SIGNING_SECRET: secret }, input);
  if (items.length !== 1 || items[0].pairedItem !== 0) throw new Error('not one item');
  if (JSON.stringify(items[0].json.delivery) !== JSON.stringify(JSON.parse(body))) throw new Error('another delivery');
  return items[0].json.nonce;
}

// Code by Zapier: the body of an async function; input data are strings.
async function zapier({ headers, body }) {
  const step = new AsyncFunction('require', 'inputData', code);
  const mapped = {
    secret,
    body: body.toString('utf8'),
    timestamp: headers['x-webriskops-timestamp'],
    nonce: headers['x-webriskops-nonce'],
    signature: headers['x-webriskops-signature'],
  };
  const { nonce, delivery } = await step(require, mapped);
  if (JSON.stringify(delivery) !== JSON.stringify(JSON.parse(body))) throw new Error('another delivery');
  return nonce;
}

// Make's functions, as far as they are used: lists begin at 1, and what is not there is empty.
const functions = {
  abs: Math.abs,
  parseNumber: (text) => (text === '' ? NaN : Number(text)),
  formatDate: (date, format) => {
    if (format !== 'X') throw new Error(`formatDate with ${format}`);
    return String(Math.floor(date / 1000));
  },
  get: (list, index) => list[index - 1] ?? '',
  map: (list, key, by, wanted) => list.filter((entry) => entry[by] === wanted).map((entry) => entry[key]),
  split: (text, separator) => text.split(separator),
  trim: (text) => text.trim(),
  sha256: (text, encoding, key) => createHmac('sha256', key).update(text).digest(encoding),
};

// A value with formulas in {{ }}. In them `;` separates arguments, `+` joins texts, and 1.name is of module 1's output.
function evaluate(value, modules) {
  const formula = /^\{\{(.*)\}\}$/.exec(value);
  if (!formula) return value;
  const script = formula[1]
    .split(/("[^"]*")/)
    .map((part, index) => (index % 2 ? part : part.replaceAll(';', ',').replace(/\b([0-9])\.([A-Za-z_])/g, 'modules[$1].$2')))
    .join('');
  const names = Object.keys(functions);
  const run = new Function('modules', 'now', ...names, `"use strict"; return ${script};`);
  return run(modules, Date.now(), ...names.map((name) => functions[name]));
}

const operators = {
  'Matches pattern': (left, right) => new RegExp(right).test(left),
  'Less than or equal to': (left, right) => Number(left) <= Number(right),
  'Equal to': (left, right) => String(left) === String(right),
};

async function make({ headers, body }) {
  const list = Object.entries(headers).map(([name, value]) => ({ name, value }));
  const modules = { 1: { __IMTHEADERS__: list, value: body.toString('utf8') } };
  const groups = [];
  let module = 0;
  for (const line of code.replaceAll('"SECRET"', JSON.stringify(secret)).split('\n').filter((line) => line.trim())) {
    const heading = /^module ([0-9])$/.exec(line);
    if (heading) {
      module = Number(heading[1]);
      modules[module] = {};
    } else if (line === 'filter' || line.startsWith('or,')) {
      groups.push([]);
    } else if (groups.length) {
      const [left, operator, right] = line.split(/ {2,}/);
      if (!operators[operator]) throw new Error(`operator ${operator}`);
      groups.at(-1).push(operators[operator](evaluate(left, modules), evaluate(right, modules)));
    } else {
      const [, name, value] = /^(\w+) *= (.*)$/.exec(line);
      modules[module][name] = evaluate(value, modules);
    }
  }
  if (groups.length !== 2 || groups.some((group) => group.length !== 4)) throw new Error('another filter than expected');
  if (!groups.some((group) => group.every(Boolean))) throw new Error('WEBHOOK_SIGNATURE_INVALID');
  return modules[2].nonce;
}

const receive = { n8n, zapier, make }[kind];
(async () => {
  for (const { headers, body } of JSON.parse(readFileSync(0, 'utf8'))) {
    try {
      console.log('accepted', await receive({ headers, body: Buffer.from(body, 'base64') }));
    } catch (error) {
      console.log('refused', error.message);
    }
  }
})();
