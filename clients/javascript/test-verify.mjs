// Runs the cases of tests/integration/verifiers.rs: `test-verify.mjs CASES VECTORS`. Prints what came of each, as JSON.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { Biscuit, PublicKey, SignatureAlgorithm } from "@biscuit-auth/biscuit-wasm";

import { Refused, certificateHolder, digestOf, holderByProof, keyRing, verify } from "./countersign-verify.mjs";

const [cases, vectors] = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, "utf8")));
const keys = keyRing(cases.keys);

function play(test) {
  const { tenant, audience, session, development, now_millis: nowMillis } = test;
  const presented = { tenant, audience, session, development, nowMillis, digest: digestOf(test.action) };
  try {
    let holder = null;
    if (test.proof) {
      holder = holderByProof(test.proof, test.token, presented, test.request_id);
    } else if (test.certificate) {
      holder = certificateHolder(Buffer.from(test.certificate, "hex"));
    }
    const claims = verify(test.token, keys, { ...presented, holder });
    const chain = claims.chain.map(({ type, id }) => [type, id]);
    return { result: "good", token_id: claims.tokenId, dies_with: [claims.exchanged, claims.sessionsAbove, chain] };
  } catch (error) {
    if (error instanceof Refused) return { result: error.reason };
    throw error;
  }
}

// A token that its holder appended this to, with the library alone.
function appended(test, source) {
  const bytes = Buffer.from(test.token.slice("csn_".length), "base64url");
  const key = (id) => PublicKey.fromBytes(keys.keys.get(id), SignatureAlgorithm.Ed25519);
  const block = Biscuit.block_builder();
  block.addCode(source);
  const longer = Biscuit.fromBytesWithProvider(bytes, key).appendBlock(block).toBytes();
  return { ...test, token: `csn_${Buffer.from(longer).toString("base64url")}` };
}

const results = Object.fromEntries(cases.cases.map((test) => [test.name, play(test)]));
const open = cases.cases.find((test) => test.name === "open");
const narrowed = appended(open, `check if now($now), $now < ${open.now_millis + 20_000};`);
let digests = 0;
for (const vector of vectors.accepted.filter((vector) => vector.fill === undefined)) {
  const { operator, input, environment, ...rest } = { ...vectors.base, ...vector.with };
  const action = { ...rest, input: JSON.parse(input), environment: JSON.parse(environment) };
  if (operator !== null && operator !== undefined) action.operator = operator;
  assert.equal(digestOf(action).toString("hex"), vector.digest, vector.name);
  digests += 1;
}
const answer = {
  results,
  widened: cases.widening.map((source) => play(appended(open, source)).result),
  narrowed: narrowed.token,
  narrowed_result: play(narrowed).result,
  digests,
};
console.log(JSON.stringify(answer));
