use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::{Algorithm, Biscuit, KeyPair, PrivateKey};
use countersign_core::{ApprovalId, Digest, EntityRef, Holder, HolderKind, SessionId, TenantId, Timestamp, TokenId};
use countersign_token::{
    Claims, KeyId, KeyRing, KeyState, Limits, PREFIX, Presented, SigningKey, Token, TokenError, Verified, mint, verify,
};
use zeroize::Zeroizing;

pub const ISSUED: i64 = 1_767_225_600_000;
pub const EXPIRES: i64 = ISSUED + 60_000;
const SEED: [u8; 32] = [7; 32];

pub fn entity(kind: &str, id: &str) -> EntityRef {
    EntityRef::new(kind, id).unwrap()
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub fn claims() -> Claims {
    Claims {
        token_id: "cap_019b76da-a800-7d5c-9f0e-3b1c8a6f2e41".parse::<TokenId>().unwrap(),
        exchanged: Vec::new(),
        sessions_above: Vec::new(),
        votes: Vec::new(),
        chain: Vec::new(),
        tenant: TenantId::new("acme").unwrap(),
        session: "ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e".parse::<SessionId>().unwrap(),
        principal: entity("Agent", "etl-bot"),
        operator: Some(entity("Person", "alice")),
        operation: "export".into(),
        resource: entity("Dataset", "customers"),
        digest: Digest::of(b"what was decided"),
        audience: "warehouse".into(),
        approval: Some("apr_019b76da-a418-7c33-b7a9-0d1e6f5a4c28".parse::<ApprovalId>().unwrap()),
        holder: None,
        open: false,
        issued_at: at(ISSUED),
        expires_at: at(EXPIRES),
        shard: 3,
        mint_epoch: 12,
        development: false,
    }
}

pub fn holder(kind: HolderKind) -> Holder {
    Holder { kind, thumbprint: Digest::of(b"what it is proved with") }
}

pub fn key() -> SigningKey {
    SigningKey::from_seed(KeyId(1), Zeroizing::new(SEED)).unwrap()
}

pub fn ring() -> KeyRing {
    KeyRing::new([(KeyId(1), key().public(), KeyState::Active)]).unwrap()
}

pub fn minted() -> Token {
    mint(&key(), &claims()).unwrap()
}

pub fn read(text: &str) -> Result<Verified, TokenError> {
    verify(text, &ring(), at(ISSUED), &Limits::default())
}

pub fn presented(claims: &Claims) -> Presented<'_> {
    Presented {
        tenant: &claims.tenant,
        session: claims.session,
        audience: &claims.audience,
        digest: claims.digest,
        holder: claims.holder,
        now: at(ISSUED),
    }
}

pub fn encode(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

pub fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX).unwrap()).unwrap()
}

/// The token as the library alone sees it.
pub fn biscuit(text: &str) -> Biscuit {
    Biscuit::from(decode(text), pair().public()).unwrap()
}

pub fn source() -> String {
    biscuit(minted().expose()).print_block_source(0).unwrap()
}

/// The root key in the hands of an insider, who signs with it whatever the library lets him write.
pub fn pair() -> KeyPair {
    KeyPair::from(&PrivateKey::from_bytes(&SEED, Algorithm::Ed25519).unwrap())
}

/// An unsealed token of this Datalog, signed by the root key.
pub fn forged(source: &str) -> Biscuit {
    Biscuit::builder()
        .root_key_id(1)
        .code(source)
        .unwrap()
        .build_with_key_pair(&pair(), SymbolTable::new(), &KeyPair::new())
        .unwrap()
}

pub fn sealed(token: &Biscuit) -> String {
    encode(&token.seal().unwrap().to_vec().unwrap())
}
