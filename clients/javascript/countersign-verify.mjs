// Verifies countersign's capabilities offline, with the official Biscuit library (npm: @biscuit-auth/biscuit-wasm).
//
// An enforcement point that looks before it asks: what is refused here, the server would refuse too. It never replaces the redeem,
// which alone spends, and alone knows what was spent, revoked, or is of a session that is over.
//
//     import { keyRing, digestOf, verify } from "./countersign-verify.mjs";
//
//     const keys = keyRing(JSON.parse(await readFile("keys.json", "utf8")));   // countersign keys list --json
//     const claims = verify(token, keys, {
//       tenant: "acme",
//       audience: "warehouse",
//       session,
//       digest: digestOf(action),                                             // of what is about to run
//       nowMillis: Date.now(),
//     });
//
// `action` is what docs/design/canonical-form.md describes. Inputs that the schema marks sensitive cannot be digested offline:
// their commitments take a key that only the service has.
//
// The library is WebAssembly that is imported as a module: run node with `--experimental-wasm-modules`, or bundle it.

import { createHash, createPublicKey, verify as verifySignature } from "node:crypto";

import { AuthorizerBuilder, Biscuit, PublicKey, Rule, SignatureAlgorithm } from "@biscuit-auth/biscuit-wasm";

const PREFIX = "csn_";
const MAX_TEXT_BYTES = 12_288;
const MAX_NARROWINGS = 4;
const VERSION = 1;
const PROOF_TYPE = "countersign-proof+jwt";
const MAX_AGE_MILLIS = 60_000;
const MAX_AHEAD_MILLIS = 5_000;
// Only a backstop: what runs was signed by the service, or has the one shape below. Far above the time that it takes, so that a busy
// machine refuses nobody.
const LIMITS = { max_facts: 64, max_iterations: 4, max_time_micro: 5_000_000 };

// What a holder may append, as the library prints it. A name that could be taken for more is none.
const NARROWED = /^(check if now\(\$now\), \$now < (-?\d+);\n)?(check if presented_audience\("[^"\\\n]{1,128}"\);\n)?$/;

// The capability is not good for this. `reason` is one word.
export class Refused extends Error {
  constructor(reason, detail, cause) {
    super(`${reason}: ${detail}`, { cause });
    this.reason = reason;
  }
}

// The keys that `countersign keys list --json` printed. Ask again after its `max_age_seconds`.
export function keyRing({ keys }) {
  const ring = { keys: new Map(), compromised: new Set() };
  for (const { key_id, algorithm, public_key, state } of keys) {
    if (algorithm !== "Ed25519" || !["active", "retired"].includes(state)) {
      ring.compromised.add(key_id);
    } else {
      ring.keys.set(key_id, Buffer.from(public_key, "hex"));
    }
  }
  return ring;
}

// The claims of a token that is good for exactly what is presented; throws `Refused` otherwise. Nothing of `presented` may be taken
// from the token: `tenant`, `audience`, `session`, `digest` (32 bytes), `nowMillis`, `holder` (by `certificateHolder` or
// `holderByProof`), `development`.
export function verify(token, keys, presented) {
  const { tenant, audience, session, digest, nowMillis, holder = null, development = false } = presented;
  const bytes = decoded(token);
  let keyId;
  let biscuit;
  try {
    biscuit = Biscuit.fromBytesWithProvider(bytes, (id) => {
      keyId = id;
      if (keys.compromised.has(id)) throw new Refused("compromised_key", `root key ${id} is no longer trusted`);
      if (!keys.keys.has(id)) throw new Refused("unknown_key", `root key ${id} is unknown here`);
      return PublicKey.fromBytes(keys.keys.get(id), SignatureAlgorithm.Ed25519);
    });
  } catch (error) {
    if (keys.compromised.has(keyId)) throw new Refused("compromised_key", `root key ${keyId} is no longer trusted`, error);
    if (keyId !== undefined && !keys.keys.has(keyId)) throw new Refused("unknown_key", `root key ${keyId} is unknown here`, error);
    throw new Refused("signature", "it was changed, or another key signed it", error);
  }
  const narrowedUntil = narrowings(biscuit);

  const builder = new AuthorizerBuilder();
  builder.addCodeWithParameters(
    `presented_tenant({tenant});
     presented_session({session});
     presented_audience({audience});
     presented_digest(hex:${hex(digest)});
     now(${integer(nowMillis)});
     allow if true;`,
    { tenant, session, audience },
    {},
  );
  if (holder !== null) {
    builder.addCodeWithParameters(`presented_holder({kind}, hex:${hex(holder.thumbprint)});`, { kind: holder.kind }, {});
  }
  const authorizer = builder.buildAuthenticated(biscuit);
  const claims = claimsOf(authorizer, keyId);

  const until = Math.min(claims.expiresAtMillis, ...narrowedUntil);
  if (!(nowMillis < until)) throw new Refused("expired", "its deadline was reached");
  const same = { tenant, session, audience, digest: hex(digest), development };
  const said = { ...claims, digest: hex(claims.digest) };
  for (const [name, wanted] of Object.entries(same)) {
    if (said[name] !== wanted) throw new Refused(name, `it is for another ${name}`);
  }
  if (claims.holder !== null) {
    const shown = holder !== null && holder.kind === claims.holder.kind && hex(holder.thumbprint) === hex(claims.holder.thumbprint);
    if (!shown) throw new Refused("holder", "whom it is bound to is not shown to present it");
  }
  // Once more by the checks inside the token. Both must agree.
  try {
    authorizer.authorizeWithLimits(LIMITS);
  } catch (error) {
    throw new Refused("checks", "a check inside the token failed, or was not done in time", error);
  }
  return claims;
}

function hex(bytes) {
  if (!(bytes instanceof Uint8Array) || bytes.length !== 32) throw new TypeError("expected the 32 bytes of a SHA-256");
  return Buffer.from(bytes).toString("hex");
}

function integer(number) {
  if (!Number.isSafeInteger(number)) throw new TypeError("expected a whole number of milliseconds");
  return number.toString();
}

function decoded(token) {
  if (Buffer.byteLength(token) > MAX_TEXT_BYTES) throw new Refused("malformed", "it is too long");
  if (!token.startsWith(PREFIX)) throw new Refused("malformed", `it does not begin with \`${PREFIX}\``);
  return base64url(token.slice(PREFIX.length), "malformed");
}

// Strictly: node itself reads past what it does not know.
function base64url(text, reason) {
  const bytes = Buffer.from(text, "base64url");
  if (bytes.toString("base64url") !== text) throw new Refused(reason, "it is not base64url without padding");
  return bytes;
}

// Until when the holder's own blocks let it be good, where they say so. They may narrow and do nothing else.
function narrowings(biscuit) {
  const blocks = biscuit.countBlocks() - 1;
  if (blocks > MAX_NARROWINGS) throw new Refused("widened", "more blocks were appended to it than may be");
  const until = [];
  for (let number = 1; number <= blocks; number += 1) {
    const text = biscuit.getBlockSource(number);
    const source = NARROWED.exec(text);
    if (source === null || text === "") throw new Refused("widened", "what was appended to it does not only narrow it");
    if (source[2] !== undefined) until.push(Number(source[2]));
  }
  return until;
}

function claimsOf(authorizer, keyId) {
  // A query sees the authority block, which the root key signed, and not what a holder appended.
  const one = (name, arity = 1, required = true) => {
    const variables = Array.from({ length: arity }, (_, place) => `$v${place}`).join(", ");
    const rule = Rule.fromString(`data(${variables}) <- ${name}(${variables})`);
    const found = authorizer.queryWithLimits(rule, LIMITS);
    if (found.length > 1 || (required && found.length === 0)) {
      throw new Refused("malformed", `it does not say \`${name}\` once`);
    }
    if (found.length === 0) return null;
    const terms = found[0].terms();
    return arity === 1 ? terms[0] : terms;
  };
  // From the nearest on.
  const numbered = (name, arity) => {
    const variables = Array.from({ length: arity }, (_, place) => `, $v${place}`).join("");
    const found = authorizer.queryWithLimits(Rule.fromString(`data($place${variables}) <- ${name}($place${variables})`), LIMITS);
    const terms = found.map((fact) => fact.terms()).sort((one, other) => Number(one[0]) - Number(other[0]));
    if (terms.some(([place], expected) => Number(place) !== expected)) {
      throw new Refused("malformed", `it does not number what it says of \`${name}\``);
    }
    return terms.map(([, ...rest]) => (arity === 1 ? rest[0] : entity(rest)));
  };
  if (Number(one("countersign")) !== VERSION) throw new Refused("malformed", "it is of another version");
  const holder = one("holder", 2, false);
  const entity = (terms) => (terms === null ? null : { type: terms[0], id: terms[1] });
  return {
    keyId,
    tokenId: one("token_id"),
    // What it was exchanged for, and that in turn; the sessions that its own was opened in; through whom the principal acts. It dies
    // with any of them.
    exchanged: numbered("exchanged", 1),
    tenant: one("tenant"),
    session: one("session"),
    sessionsAbove: numbered("session_above", 1),
    principal: entity(one("principal", 2)),
    operator: entity(one("operator", 2, false)),
    chain: numbered("chain", 2),
    operation: one("operation"),
    resource: entity(one("resource", 2)),
    digest: Uint8Array.from(one("digest")),
    audience: one("audience"),
    approval: one("approval", 1, false),
    // SHA-256 of what each vote said that it rests on, in the order in which they were cast.
    votes: numbered("vote", 1).map((vote) => Uint8Array.from(vote)),
    holder: holder === null ? null : { kind: holder[0], thumbprint: Uint8Array.from(holder[1]) },
    open: one("open", 1, false) === true,
    expiresAtMillis: Number(one("expires_at")),
    mintEpoch: one("mint_epoch"),
    development: one("development"),
  };
}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

// Who is shown by the client certificate of a connection (`tlsSocket.getPeerCertificate().raw`): RFC 8705.
export function certificateHolder(der) {
  return { kind: "certificate", thumbprint: sha256(der) };
}

// Who is shown by a proof over this token, action, audience and request id (in the manner of RFC 9449); throws `Refused`.
export function holderByProof(proof, token, { audience, digest, nowMillis }, requestId) {
  const parts = proof.split(".");
  if (proof.length > 2048 || parts.length !== 3) throw new Refused("proof", "it is no compact JWS");
  let header;
  let payload;
  try {
    [header, payload] = parts.slice(0, 2).map((part) => JSON.parse(base64url(part, "proof").toString("utf8")));
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: header.jwk.x }, format: "jwk" });
    if (!verifySignature(null, Buffer.from(`${parts[0]}.${parts[1]}`), key, base64url(parts[2], "proof"))) throw new Error("no match");
  } catch (error) {
    throw new Refused("proof", "its signature does not match, or it is malformed", error);
  }
  const only = (object, expected) => canonical(object) === canonical(expected);
  const { x } = header.jwk;
  const alg = header.alg === "Ed25519" ? "Ed25519" : "EdDSA";
  if (!only(header, { typ: PROOF_TYPE, alg, jwk: { kty: "OKP", crv: "Ed25519", x } }) || base64url(x, "proof").length !== 32) {
    throw new Refused("proof", "its header is not one of a proof");
  }
  const { iat } = payload;
  if (!Number.isSafeInteger(iat)) throw new Refused("proof", "it does not say when it was made");
  const about = { ath: sha256(token).toString("base64url"), digest: hex(digest), aud: audience, jti: requestId, iat };
  if (!only(payload, about)) throw new Refused("proof", "it is of another token, action, audience or request");
  const age = nowMillis - iat * 1000;
  if (!(age >= -MAX_AHEAD_MILLIS && age <= MAX_AGE_MILLIS)) throw new Refused("proof", "it is too old, or from the future");
  return { kind: "key", thumbprint: sha256(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`) };
}

// The digest of an action: an object of `tenant`, `audience`, `session`, `principal`, `operator` (if any), `chain`, `operation`,
// `resource`, `input` and `environment`. Throws `TypeError` for what no reader may guess at.
export function digestOf(action) {
  return sha256(canonical({ ...action, version: 1 }));
}

// RFC 8785, for the values that an action can hold. Strings of JavaScript are ordered by UTF-16 code units, as it wants.
function canonical(value) {
  if (typeof value === "boolean" || typeof value === "string" || Number.isSafeInteger(value)) {
    return Object.is(value, -0) ? "0" : JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const names = Object.keys(value).sort((one, other) => (one < other ? -1 : 1));
    return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
  }
  throw new TypeError(`${value} is in no action`);
}
