// A real authorization server (oidc-provider) with the clients of the tests.
// node server.mjs <port> <folder with node_modules>; JWKS in the environment: {"<client>": {"keys": [...]}}
import http from 'node:http';
import { pathToFileURL } from 'node:url';

const [port, modules] = [Number(process.argv[2]), process.argv[3]];
const load = (path) => import(pathToFileURL(`${modules}/node_modules/${path}`));
const { default: Provider, errors } = await load('oidc-provider/lib/index.js');
const { createLocalJWKSet, jwtVerify } = await load('jose/dist/webapi/index.js');

const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const issuer = `http://127.0.0.1:${port}`;
const secret = 'p+%&=:/ ~odd-secret-of-32-characters';
const jwks = JSON.parse(process.env.JWKS ?? '{}');
const machine = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'] };
const person = {
  client_secret: secret, redirect_uris: ['http://127.0.0.1:9/back'], response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token'],
};

const provider = new Provider(issuer, {
  clients: [
    { ...machine, client_id: 'basic: +1', client_secret: secret, scope: 'api.read api.write' },
    { ...machine, client_id: 'post', client_secret: secret, token_endpoint_auth_method: 'client_secret_post' },
    ...['rsa', 'ec', 'ed'].map((id) => ({
      ...machine, client_id: id, token_endpoint_auth_method: 'private_key_jwt', jwks: jwks[id],
    })),
    { ...machine, client_id: 'bearer', grant_types: [JWT_BEARER], token_endpoint_auth_method: 'none', jwks: jwks.rsa },
    { ...person, client_id: 'rotating' },
    { ...person, client_id: 'steady' },
    { ...machine, client_id: 'inspector', client_secret: secret },
  ],
  scopes: ['openid', 'offline_access', 'api.read', 'api.write'],
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  findAccount: (context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  rotateRefreshToken: (context) => context.oidc.client.clientId === 'rotating',
  ttl: { ClientCredentials: 3600, AccessToken: 3600, RefreshToken: 86400, Grant: 86400, Session: 3600, Interaction: 600 },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:api',
      useGrantedResource: () => true,
      getResourceServerInfo: (context, resource) => {
        if (!['urn:api', 'urn:jwt'].includes(resource)) throw new errors.InvalidTarget();
        const format = resource === 'urn:jwt' ? 'jwt' : 'opaque';
        return { scope: 'api.read api.write', audience: resource, accessTokenFormat: format, accessTokenTTL: 3600 };
      },
    },
  },
});

// oidc-provider leaves RFC 7523's grant to its users: the assertion is verified against the client's keys.
provider.registerGrantType(JWT_BEARER, async (context) => {
  const { client, params } = context.oidc;
  let claims;
  try {
    const expected = { issuer: client.clientId, audience: issuer, requiredClaims: ['exp', 'sub'] };
    claims = (await jwtVerify(params.assertion, createLocalJWKSet(jwks.rsa), expected)).payload;
  } catch (error) {
    throw new errors.InvalidGrant(error.message);
  }
  const token = new provider.ClientCredentials({ client, scope: params.scope, extra: { sub: claims.sub } });
  context.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: token.expiration };
}, ['assertion', 'scope']);

provider.on('server_error', (context, error) => console.error('SERVER_ERROR', error));

let tokenRequests = 0;
const answer = provider.callback();
http.createServer((request, response) => {
  if (request.url === '/counted') {
    response.end(String(tokenRequests));
    return;
  }
  if (request.method === 'POST' && request.url === '/token') tokenRequests += 1;
  answer(request, response);
}).listen(port, '127.0.0.1');
