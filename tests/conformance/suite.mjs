// The command line of a conformance suite, in one process for many commands: to read it takes longer than most scenarios.
//
//   node suite.mjs INDEX.js    each line of stdin is a list of words in JSON, a command, which ends the process of the
//                              suite; a line of JSON says then with what status it would have, and what it printed
//
// Each command has a suite of its own, evaluated anew; what the suite is made of is shared.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const suite = pathToFileURL(process.argv[2]).href;
const say = process.stdout.write.bind(process.stdout);
let said = "";
for (const stream of [process.stdout, process.stderr]) {
  stream.write = (text, ...rest) => {
    said += text;
    rest.at(-1)?.call?.();
    return true;
  };
}

let number = 0;
for await (const line of createInterface({ input: process.stdin })) {
  said = "";
  process.argv = [process.argv[0], process.argv[1], ...JSON.parse(line)];
  const ended = new Promise((resolve) => (process.exit = (status) => resolve(status ?? 0)));
  await import(`${suite}?${number++}`);
  say(`${JSON.stringify({ status: await ended, said })}\n`);
}
