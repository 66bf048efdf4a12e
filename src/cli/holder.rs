//! What holders do: bind a capability, prove to hold it, and narrow it without a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use countersign::proto::{Holder, holder};
use countersign_core::time::SystemClock;
use countersign_core::{Clock as _, HolderKind, Timestamp};
use countersign_token::{HolderKey, Narrowing, holder_of_certificate, holder_of_pem, narrow, unverified_claims};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::args::{read_file, read_secret};
use super::output::Output;
use super::when::rfc3339;
use super::{Exit, Failure};

pub const PROVE_EXAMPLES: &str = "The proof is good for this token, the action and audience that it is for, and this request id, for a minute. Hand all \
     three to the enforcement point.\n\nExamples:\n  \
     countersign capability prove @token --holder-key agent.pem --json";
pub const ATTENUATE_EXAMPLES: &str = "Works on a capability that was minted with `decide --open`, and needs no server. The copy is the same capability: \
     whichever copy is redeemed first is the only one that ever is.\n\nExamples:\n  \
     countersign capability attenuate @token --expires-in 30s\n  \
     countersign capability attenuate @token --audience warehouse --expires-in 2m > narrowed";

/// Whom a capability is to be bound to.
#[derive(Debug, Args)]
pub struct HolderArgs {
    /// Bind the capability to an Ed25519 key: its PEM file, private or public
    #[arg(long, value_name = "FILE", requires = "mint", conflicts_with = "holder_certificate")]
    holder_key: Option<PathBuf>,
    /// Bind the capability to a client certificate: its PEM file
    #[arg(long, value_name = "FILE", requires = "mint")]
    holder_certificate: Option<PathBuf>,
}

/// A proof to sign.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// The token: `@FILE`, `-` for stdin, or in place
    #[arg(id = "capability_token", value_name = "TOKEN")]
    token: String,
    /// The Ed25519 private key that it is bound to, in PEM
    #[arg(long, value_name = "FILE")]
    holder_key: PathBuf,
    /// The request id that it will be redeemed under; a new one, if absent
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

/// A token to narrow.
#[derive(Debug, Args)]
pub struct AttenuateArgs {
    /// The token: `@FILE`, `-` for stdin, or in place
    #[arg(id = "capability_token", value_name = "TOKEN")]
    token: String,
    /// How long the copy is good from now on, such as `30s`
    #[arg(long, value_name = "DURATION", value_parser = super::args::parse_duration, required_unless_present = "audience")]
    expires_in: Option<Duration>,
    /// The one enforcement point that the copy is for
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
}

impl HolderArgs {
    /// As the wire has it.
    pub fn holder(&self) -> Result<Option<Holder>, Failure> {
        let bound = match (&self.holder_key, &self.holder_certificate) {
            (None, None) => return Ok(None),
            (Some(path), _) => {
                let pem = Zeroizing::new(read_file(path)?);
                let pem = std::str::from_utf8(&pem).map_err(|_| unusable(path, "not PEM"))?;
                holder_of_pem(pem).map_err(|error| unusable(path, &error.to_string()))?
            }
            (None, Some(path)) => {
                let own = CertificateDer::from_pem_slice(&read_file(path)?);
                holder_of_certificate(&own.map_err(|_| unusable(path, "no certificate in PEM form"))?)
            }
        };
        let thumbprint = URL_SAFE_NO_PAD.encode(bound.thumbprint.as_bytes());
        let named = match bound.kind {
            HolderKind::Certificate => holder::Holder::CertificateThumbprint(thumbprint),
            HolderKind::Key => holder::Holder::KeyThumbprint(thumbprint),
        };
        Ok(Some(Holder { holder: Some(named) }))
    }
}

/// Whom a capability is bound to, as JSON.
pub fn shown(Holder { holder }: &Holder) -> Option<serde_json::Value> {
    let (kind, thumbprint) = match holder.as_ref()? {
        holder::Holder::CertificateThumbprint(thumbprint) => ("certificate", thumbprint.clone()),
        holder::Holder::KeyThumbprint(thumbprint) => ("key", thumbprint.clone()),
        // Never sent; servers tell of thumbprints.
        holder::Holder::PublicKey(key) => ("public_key", super::json::hex(key)),
    };
    Some(json!({ "kind": kind, "thumbprint": thumbprint }))
}

/// The private key in a file.
pub fn holder_key(path: &Path) -> Result<HolderKey, Failure> {
    let pem = Zeroizing::new(read_file(path)?);
    let pem = std::str::from_utf8(&pem).map_err(|_| unusable(path, "not PEM"))?;
    HolderKey::from_pem(pem).map_err(|error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, problem: &str) -> Failure {
    Failure::usage(format!("`{}`: {problem}", path.display()))
}

/// Signs a proof.
pub fn prove(args: ProveArgs, output: &mut Output) -> Result<Exit, Failure> {
    let token = read_secret(&args.token, "token")?;
    let request_id = args.request_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let proof = holder_key(&args.holder_key)?
        .prove(&token, &request_id, SystemClock::default().wall())
        .map_err(|error| Failure::new(format!("no proof can be made: {error}")).reason("TOKEN_REFUSED"))?;
    output.document(&json!({ "holder_proof": proof, "request_id": request_id }), &proof)?;
    output.remark(&format!("redeem it within a minute under the request id {request_id}"));
    Ok(Exit::Done)
}

/// Narrows a token.
pub fn attenuate(args: AttenuateArgs, output: &mut Output) -> Result<Exit, Failure> {
    let token = read_secret(&args.token, "token")?;
    let refused = |error: String| Failure::new(format!("the token is not narrowed: {error}")).reason("TOKEN_REFUSED");
    let claims = unverified_claims(&token).map_err(|error| refused(error.to_string()))?;
    if let Some(other) = args.audience.as_ref().filter(|audience| **audience != claims.audience) {
        let problem = format!(
            "`--audience`: the capability is for `{}`, and narrowed to `{}` it would be for nobody",
            countersign_core::visible::Visible::new(&claims.audience),
            countersign_core::visible::Visible::new(other)
        );
        return Err(Failure::usage(problem));
    }
    let expires_at = args.expires_in.map(|lasts| SystemClock::default().wall().plus(lasts));
    // It would be no narrower, and whoever asked for it believes that it is good for longer than it is.
    if expires_at.is_some_and(|at| at > claims.expires_at) {
        let ends = super::when::relative(super::capability::wire(claims.expires_at).as_ref());
        return Err(Failure::usage(format!("`--expires-in`: the token itself ends earlier, {ends}")));
    }
    let narrowed = narrow(&token, &Narrowing { expires_at, audience: args.audience })
        .map_err(|error| refused(error.to_string()))?;
    let ends = expires_at.map_or(claims.expires_at, |at| Timestamp::min(at, claims.expires_at));
    let json = json!({
        "token": narrowed.expose(),
        "capability_id": claims.token_id,
        "expires_at": rfc3339(super::capability::wire(ends).as_ref()),
    });
    output.document(&json, narrowed.expose())?;
    Ok(Exit::Done)
}
