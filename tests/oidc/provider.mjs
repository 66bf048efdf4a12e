// An OpenID Provider on loopback: `node provider.mjs PORT`. It prints its issuer when it takes requests, and ends with its
// standard input.
//
// Agents and services get tokens by client credentials. People get them by the authorization code flow; who logs in, and how,
// is what `login_hint` says, as JSON: {"sub": "dana", "amr": ["hwk"], "age": 0, "groups": []}, the age in seconds.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

// Installed elsewhere than here: where NODE_PATH says.
const { default: Provider } = await import(createRequire(import.meta.url).resolve('oidc-provider'));

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;

// A resource, and the audience of the tokens for it.
const audiences = {
  'https://countersign.example.com/use': 'countersign',
  'https://countersign.example.com/approve': 'countersign-approve',
};

// Who is answerable for whom, as its tokens say.
const owners = { 'agent:etl-bot': 'dave', 'service:warehouse-gateway': 'wendy' };

// In which groups people said that they are when they logged in.
const groups = new Map();

const machine = (client_id) => ({
  client_id,
  client_secret: 'secret',
  token_endpoint_auth_method: 'client_secret_post',
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
});

function provider() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg: 'ES256', use: 'sig' };
  return new Provider(issuer, {
    jwks: { keys: [key] },
    cookies: { keys: ['of a test'] },
    pkce: { required: () => false },
    clients: [
      machine('agent:etl-bot'),
      machine('service:warehouse-gateway'),
      {
        client_id: 'console',
        client_secret: 'secret',
        token_endpoint_auth_method: 'client_secret_post',
        id_token_signed_response_alg: 'ES256',
        redirect_uris: ['http://127.0.0.1/done'],
      },
    ],
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    // Nobody is asked for consent.
    async loadExistingGrant(ctx) {
      const { client, session } = ctx.oidc;
      const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope('openid');
      for (const resource of Object.keys(audiences)) grant.addResourceScope(resource, 'use');
      await grant.save();
      return grant;
    },
    interactions: { url: (_, interaction) => `/login/${interaction.uid}` },
    // RFC 9068 §2.2.1: how and when the person authenticated is in the access token too.
    // And in which groups (RFC 9068 §2.2.3.1), and whose an agent is.
    extraTokenClaims(ctx, token) {
      const code = ctx.oidc.entities.AuthorizationCode;
      if (!code) return { owner: owners[token.clientId] };
      return { auth_time: code.authTime, amr: code.amr, groups: groups.get(code.accountId) };
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'use',
          audience: audiences[resource],
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
}

let current = provider();

async function login(request, response) {
  const { params } = await current.interactionDetails(request, response);
  const { sub, amr, age, groups: member } = JSON.parse(params.login_hint);
  groups.set(sub, member);
  const login = { accountId: sub, amr, ts: Math.floor(Date.now() / 1000) - age };
  await current.interactionFinished(request, response, { login });
}

createServer((request, response) => {
  if (request.url.startsWith('/login/')) {
    login(request, response).catch((error) => response.writeHead(500).end(String(error)));
  } else if (request.url === '/rotate') {
    current = provider();
    response.end();
  } else {
    current.callback()(request, response);
  }
}).listen(port, '127.0.0.1', () => console.log(issuer));

process.stdin.on('end', () => process.exit()).resume();
