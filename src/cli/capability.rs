//! `countersign capability`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use countersign::client::ClientError;
use countersign::proto::{
    Capability, CompleteRequest, DelegateRequest, GetCapabilityRequest, ListCapabilitiesRequest, Outcome,
    RedeemRequest, RedeemResponse, RevokeRequest,
};
use countersign_core::Clock as _;
use countersign_core::time::SystemClock;
use countersign_token::{Claims, Limits, Verified, verify};
use serde_json::{Value, json};

use super::args::{ActionArgs, Connection, parse_duration, read_secret};
use super::holder::{AttenuateArgs, ProveArgs};
use super::output::{GOOD, Output, STRONG, WARN, paint};
use super::text::{Lines, entity};
use super::when::{relative, rfc3339};
use super::{Exit, Failure, holder, keys};

/// What nobody may conclude from a token that verifies.
const NEVER_AUTHORIZES: &str = "looking at a token authorizes nothing: it may be spent, revoked or in a session that is over; only `redeem` decides";

#[derive(Debug, Subcommand)]
pub enum CapabilityCommand {
    /// Spend a capability on what you are about to execute
    #[command(after_help = "Execute only after exit code 0.\n\nExamples:\n  \
        countersign capability redeem @token export Dataset::customers --audience warehouse \\\n    \
        --input '{\"rows\": 500, \"destination\": \"s3://ours-reports\"}'")]
    Redeem(RedeemArgs),
    /// Exchange a capability for one of the same action that a sub-agent acts by
    #[command(
        after_help = "Exit codes: 0 ALLOW, 3 DENY, 4 NEEDS_APPROVAL, 1 error. Only ALLOW gives the capability up.\n\nExamples:\n  \
        countersign session open --purpose 'one table of it' --parent SES --principal Agent::helper --id-only\n  \
        countersign capability delegate @token describe Dataset::docs --audience warehouse --to-session SES"
    )]
    Delegate(DelegateArgs),
    /// Report the outcome of what was redeemed
    #[command(after_help = "Examples:\n  countersign capability complete CAP --outcome succeeded")]
    Complete {
        /// The capability's id
        capability: String,
        /// What came of it
        #[arg(long, value_enum)]
        outcome: OutcomeArg,
        /// SHA-256 of the result
        #[arg(long, value_name = "HEX", default_value = "", hide_default_value = true)]
        result_digest: String,
    },
    /// Make a capability worthless
    #[command(after_help = "Examples:\n  countersign capability revoke CAP --reason 'the agent misbehaves'")]
    Revoke {
        /// The capability's id
        capability: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show a capability, without its token
    #[command(after_help = "Examples:\n  countersign capability show CAP")]
    Show {
        /// The capability's id
        capability: String,
    },
    /// List the capabilities of a session, newest first
    #[command(after_help = "Examples:\n  countersign capability list --session SES\n  \
                            countersign capability list --session SES --json")]
    List {
        /// The session
        #[arg(long, value_name = "ID", env = "COUNTERSIGN_SESSION")]
        session: String,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Sign that you hold a capability that is bound to your key, for whoever redeems it
    #[command(after_help = holder::PROVE_EXAMPLES)]
    Prove(ProveArgs),
    /// Narrow an open token without the server: an earlier end, its audience again
    #[command(after_help = holder::ATTENUATE_EXAMPLES)]
    Attenuate(AttenuateArgs),
    /// Check a token's signature and print what it says, which never authorizes
    #[command(after_help = "Examples:\n  countersign capability verify @token --keys keys.json\n  \
        countersign capability verify - --endpoint http://127.0.0.1:8443")]
    Verify {
        /// The token: `@FILE`, `-` for stdin, or in place
        #[arg(id = "capability_token", value_name = "TOKEN")]
        token: String,
        /// The public keys, as `countersign keys list --json` prints them; without it the server is asked
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
}

/// A capability to spend.
#[derive(Debug, Args)]
pub struct RedeemArgs {
    /// The token: `@FILE`, `-` for stdin, or in place, where other users of the machine may see it
    // An id of its own: `token` is the caller's credential, which the capability must never be taken for.
    #[arg(id = "capability_token", value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    action: ActionArgs,
    /// Identifies this attempt: when a reply was lost, retry with the same UUID
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// The Ed25519 private key that the capability is bound to, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "holder_proof")]
    holder_key: Option<PathBuf>,
    /// What its holder signed, as `capability prove` printed it, for the same request id
    #[arg(long, value_name = "PROOF", requires = "request_id")]
    holder_proof: Option<String>,
}

/// A capability to hand on.
#[derive(Debug, Args)]
pub struct DelegateArgs {
    /// The token that is given up: `@FILE`, `-` for stdin, or in place, where other users of the machine may see it
    #[arg(id = "capability_token", value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    action: ActionArgs,
    /// The sub-agent's session, opened in the capability's
    #[arg(long, value_name = "ID")]
    to_session: String,
    /// The approval to use for the sub-agent's action
    #[arg(long, value_name = "ID")]
    approval: Option<String>,
    /// How long the new capability lives at most, such as `30s`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Identifies this attempt: the same UUID gives the same answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// The Ed25519 private key that the capability is bound to, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "holder_proof")]
    holder_key: Option<PathBuf>,
    /// What its holder signed, as `capability prove` printed it, for the same request id
    #[arg(long, value_name = "PROOF", requires = "request_id")]
    holder_proof: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OutcomeArg {
    Succeeded,
    Failed,
}

/// Runs one of the commands.
pub async fn run(command: CapabilityCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let after: Option<Capability> = match command {
        CapabilityCommand::Redeem(args) => return redeem(args, connection, output).await,
        CapabilityCommand::Prove(args) => return holder::prove(args, output),
        CapabilityCommand::Attenuate(args) => return holder::attenuate(args, output),
        CapabilityCommand::Delegate(args) => return delegate(args, connection, output).await,
        CapabilityCommand::Verify { token, keys } => {
            let ring = match keys {
                Some(path) => keys::ring_of_file(&path)?,
                None => keys::ring_of_server(&connection.client().await?).await?,
            };
            let now = SystemClock::default().wall();
            let verified = verify(&read_secret(&token, "token")?, &ring, now, &Limits::default())
                .map_err(|error| Failure::new(format!("the token does not verify: {error}")).reason("TOKEN_REFUSED"))?;
            output.document(&claims_json(&verified), &claims_human(&verified))?;
            return Ok(Exit::Done);
        }
        CapabilityCommand::List { session, limit } => return list(session, limit, connection, output).await,
        CapabilityCommand::Complete { capability, outcome, result_digest } => {
            let outcome = match outcome {
                OutcomeArg::Succeeded => Outcome::Succeeded,
                OutcomeArg::Failed => Outcome::Failed,
            };
            let request = CompleteRequest {
                capability_id: capability,
                outcome: outcome.into(),
                result_digest,
                request_id: String::new(),
            };
            connection.client().await?.complete(request).await?.capability
        }
        CapabilityCommand::Revoke { capability, reason } => {
            let request = RevokeRequest { capability_id: capability, reason, request_id: String::new() };
            connection.client().await?.revoke(request).await?.capability
        }
        CapabilityCommand::Show { capability } => {
            let request = GetCapabilityRequest { capability_id: capability };
            connection.client().await?.get_capability(request).await?.capability
        }
    };
    let capability = after.ok_or(ClientError::Incomplete("capability"))?;
    output.document(&super::json::capability(&capability), &super::text::capability(&capability))?;
    Ok(Exit::Done)
}

async fn list(session: String, limit: usize, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    let page = async |_, page_token| {
        let request = ListCapabilitiesRequest { session_id: session.clone(), page_token, page_size: 0 };
        let page = client.list_capabilities(request).await?;
        Ok((page.capabilities, page.next_page_token))
    };
    let tell = |capability| output.item(&super::json::capability(&capability), &super::text::capability(&capability));
    super::pages::each(limit, page, tell).await?;
    Ok(Exit::Done)
}

async fn redeem(args: RedeemArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    if args.token == "-" && (args.action.input == "-" || args.action.environment == "-") {
        return Err(Failure::usage("the token and the action cannot both come from stdin; put one in a file"));
    }
    let request = RedeemRequest {
        token: read_secret(&args.token, "token")?,
        operation: Some(args.action.operation()?),
        audience: args.action.audience,
        request_id: args.request_id.unwrap_or_default(),
        holder_proof: args.holder_proof.unwrap_or_default(),
    };
    let key = args.holder_key.as_deref().map(holder::holder_key).transpose()?;
    let client = connection.client().await?;
    let receipt = match &key {
        Some(key) => client.redeem_as(key, request).await?,
        None => client.redeem(request).await?,
    };
    output.document(&super::json::receipt(&receipt), &receipt_human(&receipt))?;
    redeemed(receipt.replayed)
}

async fn delegate(args: DelegateArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    if args.token == "-" && (args.action.input == "-" || args.action.environment == "-") {
        return Err(Failure::usage("the token and the action cannot both come from stdin; put one in a file"));
    }
    let ttl = args.ttl.map(prost_types::Duration::try_from).transpose();
    let request = DelegateRequest {
        token: read_secret(&args.token, "token")?,
        operation: Some(args.action.operation()?),
        audience: args.action.audience,
        session_id: args.to_session,
        request_id: args.request_id.unwrap_or_default(),
        approval_id: args.approval.unwrap_or_default(),
        ttl: ttl.map_err(|_| Failure::usage("`--ttl` is longer than any capability lives"))?,
        holder_proof: args.holder_proof.unwrap_or_default(),
        holder: None,
    };
    let key = args.holder_key.as_deref().map(holder::holder_key).transpose()?;
    let client = connection.client().await?;
    let answer = match &key {
        Some(key) => client.delegate_as(key, request).await?,
        None => client.delegate(request).await?,
    };
    let decision = answer.decision.ok_or(ClientError::Incomplete("decision"))?;
    output.document(&super::json::decision(&decision), &super::text::decision(&decision))?;
    super::decide::exit(decision.verdict(), false)
}

/// A script executes on exit code 0, so a replay must not end with it.
fn redeemed(replayed: bool) -> Result<Exit, Failure> {
    if !replayed {
        return Ok(Exit::Done);
    }
    Err(Failure::new("the receipt is a replay, which authorizes nothing")
        .reason("REPLAYED")
        .hint("execute only if the earlier attempt is known not to have run; otherwise decide again"))
}

fn receipt_human(receipt: &RedeemResponse) -> String {
    let mut text = Lines::default();
    text.line(if receipt.replayed {
        paint(WARN, "REPLAYED: do not execute")
    } else {
        paint(GOOD.bold(), "REDEEMED: execute now")
    });
    text.shown("capability", &receipt.capability_id).field("principal", entity(receipt.principal.as_ref()));
    text.shown("session", &receipt.session_id).shown("digest", &receipt.digest);
    text.field("report by", relative(receipt.complete_by.as_ref())).shown("bundle", &receipt.bundle_digest);
    if let Some(index) = receipt.log_index {
        text.field("log index", index);
    }
    text.finish()
}

fn claims_json(verified: &Verified) -> Value {
    let Claims {
        token_id,
        exchanged,
        tenant,
        session,
        sessions_above,
        principal,
        operator,
        chain,
        operation,
        resource,
        digest,
        audience,
        approval,
        votes,
        holder,
        open,
        issued_at,
        // What counts is what its holder narrowed that to.
        expires_at: _,
        shard,
        mint_epoch,
        development,
    } = verified.claims();
    json!({
        "signature": "valid",
        "authorizes": false,
        "key_id": verified.key().0,
        "capability_id": token_id,
        "tenant": tenant,
        "session_id": session,
        "principal": principal,
        "operator": operator,
        "chain": chain,
        "sessions_above": sessions_above,
        "exchanged": exchanged,
        "operation": operation,
        "resource": resource,
        "digest": digest,
        "audience": audience,
        "approval_id": approval,
        "votes": votes,
        "holder": holder,
        "open": open,
        "narrowed": verified.narrowings().len(),
        "issued_at": rfc3339(wire(*issued_at).as_ref()),
        "expires_at": rfc3339(wire(verified.expires_at()).as_ref()),
        "shard": shard,
        "mint_epoch": mint_epoch,
        "development": development,
    })
}

fn claims_human(verified: &Verified) -> String {
    let claims = verified.claims();
    let mut text = Lines::default();
    text.line(paint(STRONG, "genuine, and not expired"));
    text.field("capability", claims.token_id).field("tenant", &claims.tenant).field("session", claims.session);
    text.field("principal", &claims.principal);
    if let Some(operator) = &claims.operator {
        text.field("acting for", operator);
    }
    for link in &claims.chain {
        text.field("through", link);
    }
    for above in &claims.sessions_above {
        text.field("below", above);
    }
    for given in &claims.exchanged {
        text.field("exchanged for", given);
    }
    text.shown("operation", &claims.operation).field("resource", &claims.resource).shown("audience", &claims.audience);
    if let Some(approval) = claims.approval {
        text.field("approval", approval);
    }
    if let Some(holder) = claims.holder {
        text.field("bound to", holder);
    }
    let times = verified.narrowings().len();
    if claims.open && times == 0 {
        text.field("open", "its holder may narrow it");
    } else if claims.open {
        text.field("open", format!("narrowed {}", super::text::count(times as u64, "time", "times")));
    }
    text.field("digest", claims.digest).field("expires", relative(wire(verified.expires_at()).as_ref()));
    text.field("key", verified.key().0).field("mint epoch", claims.mint_epoch);
    if claims.development {
        text.line(paint(WARN, "  minted by a development server: worthless in production"));
    }
    text.line("").line(paint(WARN, NEVER_AUTHORIZES));
    text.finish()
}

pub fn wire(time: countersign_core::Timestamp) -> Option<prost_types::Timestamp> {
    let nanos = i32::try_from(time.millis().rem_euclid(1_000)).ok()?.checked_mul(1_000_000)?;
    Some(prost_types::Timestamp { seconds: time.millis().div_euclid(1_000), nanos })
}

#[cfg(test)]
mod tests {
    use countersign_core::{Digest, EntityRef, SessionId, TenantId, Timestamp, TokenId};
    use countersign_token::{KeyId, KeyRing, KeyState, SigningKey, mint};

    use super::*;

    fn verified() -> Verified {
        let key = SigningKey::generate(KeyId(3)).unwrap();
        let claims = Claims {
            token_id: TokenId::from_bytes([1; 16]),
            exchanged: Vec::new(),
            sessions_above: Vec::new(),
            votes: Vec::new(),
            chain: Vec::new(),
            tenant: TenantId::new("dev").unwrap(),
            session: SessionId::from_bytes([2; 16]),
            principal: EntityRef::new("Agent", "etl-bot").unwrap(),
            operator: None,
            operation: "export".into(),
            resource: EntityRef::new("Dataset", "customers").unwrap(),
            digest: Digest::of(b"x"),
            audience: "warehouse".into(),
            approval: None,
            holder: None,
            open: false,
            issued_at: Timestamp::from_millis(1_500),
            expires_at: Timestamp::from_millis(9_000),
            shard: 0,
            mint_epoch: 1,
            development: true,
        };
        let token = mint(&key, &claims).unwrap();
        let ring = KeyRing::new([(KeyId(3), key.public(), KeyState::Active)]).unwrap();
        verify(token.expose(), &ring, Timestamp::from_millis(2_000), &Limits::default()).unwrap()
    }

    #[test]
    fn a_token_that_verifies_is_said_to_authorize_nothing() {
        let verified = verified();
        let json = claims_json(&verified);
        assert_eq!(json.pointer("/authorizes"), Some(&json!(false)));
        assert_eq!(json.pointer("/principal/id"), Some(&json!("etl-bot")));
        assert_eq!(json.pointer("/issued_at"), Some(&json!("1970-01-01T00:00:01.5Z")));
        assert!(claims_human(&verified).contains(NEVER_AUTHORIZES));
    }

    #[test]
    fn a_replayed_receipt_is_no_success() {
        assert_eq!(redeemed(false).unwrap(), Exit::Done);
        assert_eq!(redeemed(true).unwrap_err().exit(), Exit::Error);
        assert!(
            receipt_human(&RedeemResponse { replayed: true, ..RedeemResponse::default() }).contains("do not execute")
        );
    }
}
