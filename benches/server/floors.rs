//! What the parts cost alone: nobody decides, mints and records for less.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use biscuit_auth::macros::{authorizer, biscuit};
use biscuit_auth::{Biscuit, KeyPair};
use cedar_policy::{Authorizer, Context, Decision, Entities, PolicySet, Request, Schema};
use countersign_policy::{Bundle, Source};
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;

use crate::Result;

/// The policies whose scope takes in `query`; the others are never evaluated for it.
const CANDIDATES: [&str; 6] = [
    "anybody-reads",
    "pii-is-for-data-agents",
    "kernel-approved-by-an-excluded-person",
    "kernel-approved-another-digest",
    "kernel-approved-by-nobody",
    "kernel-approval-expired",
];
/// About what a decision writes: its record, its row, the answer under its request id.
const WRITE_BYTES: usize = 1_536;

/// What each part costs.
#[derive(Debug, Clone, Serialize)]
pub struct Floors {
    /// `is_authorized` on ready policies, request and entities, in microseconds of CPU.
    pub cedar_us: f64,
    /// Building, signing, sealing and serializing a token, in microseconds of CPU.
    pub mint_us: f64,
    /// Reading, verifying and authorizing one, in microseconds of CPU.
    pub verify_us: f64,
    /// Its length in bytes.
    pub token_bytes: usize,
    /// Verifying a JWS as long as a holder's proof, in microseconds of CPU.
    pub proof_us: f64,
    /// One synced write, in milliseconds of time.
    pub write_p50_ms: f64,
    /// The 99th percentile, in milliseconds of time.
    pub write_p99_ms: f64,
    /// Its CPU, in microseconds.
    pub write_cpu_us: f64,
}

/// Measures each for the window.
pub fn measure(bundle: &Path, place: &Path, window: Duration) -> Result<Floors> {
    let cedar_us = cedar(bundle, window)?;
    let (mint_us, verify_us, token_bytes) = token(window)?;
    let (writes, write_cpu_us) = writes(&place.join("floor"), window)?;
    let write = |quantile: f64| writes.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Floors {
        cedar_us,
        mint_us,
        verify_us,
        token_bytes,
        proof_us: proof(window)?,
        write_p50_ms: write(0.5),
        write_p99_ms: write(0.99),
        write_cpu_us,
    })
}

fn cedar(path: &Path, window: Duration) -> Result<f64> {
    let bundle = Bundle::load(Source::read_dir(path)?).map_err(|refused| format!("{refused:?}"))?;
    let (schema, _warnings) = Schema::from_cedarschema_str(bundle.composed_schema())?;
    let mut text = String::new();
    for id in CANDIDATES {
        text.push_str(&bundle.policy_text(id).ok_or_else(|| format!("the bundle has no policy `{id}`"))?.text);
    }
    let policies: PolicySet = text.parse()?;
    let entities = Entities::from_json_str(&std::fs::read_to_string(path.join("entities.json"))?, Some(&schema))?;
    let context = json!({
        "input": {"statement": "select count(*) from telemetry where day = '2026-11-18'", "columns": ["day", "host"]},
        "environment": {},
        "session": {
            "id": "ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e",
            "purpose": "to measure",
            "opened_at": "2026-11-18T10:00:00Z",
            "deadline": "2026-11-18T14:00:00Z",
            "labels": [],
            "counters": {},
            "unresolved": 0,
        },
        "operator": {"type": "Person", "id": "olivia"},
        "excluded": [{"type": "Person", "id": "olivia"}, {"type": "Person", "id": "wendy"}],
        "digest": "8a6724851f0eb2aa1c7a34261dae400fa211418ebacd4987e1727822457b7db2",
        "now": {"instant": "2026-11-18T10:00:01Z", "weekday": "wednesday", "hour": 10, "minute": 0},
    });
    let action = "Action::\"query\"".parse()?;
    let context = Context::from_json_value(context, Some((&schema, &action)))?;
    let (principal, resource) = ("Agent::\"etl-bot\"".parse()?, "Dataset::\"telemetry\"".parse()?);
    let request = Request::new(principal, action, resource, context, Some(&schema))?;
    let authorizer = Authorizer::new();
    cost(window, || {
        let answer = authorizer.is_authorized(black_box(&request), &policies, &entities);
        if answer.decision() == Decision::Allow && answer.diagnostics().errors().next().is_none() {
            Ok(())
        } else {
            Err("Cedar did not allow the floor's request".into())
        }
    })
}

/// The claims and checks of a capability, with nothing of ours around them.
fn token(window: Duration) -> Result<(f64, f64, usize)> {
    let root = KeyPair::new();
    let digest = [0x5a_u8; 32].to_vec();
    let mint = || -> Result<Vec<u8>> {
        let (digest, expires) = (digest.clone(), 1_767_225_660_000_i64);
        let (checked, until) = (digest.clone(), expires);
        let token = biscuit!(
            r#"
            countersign(1);
            token_id("cap_019b76da-a800-7d5c-9f0e-3b1c8a6f2e41");
            tenant("dev");
            session("ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e");
            principal("Agent", "etl-bot");
            operator("Person", "olivia");
            operation("query");
            resource("Dataset", "telemetry");
            digest({digest});
            audience("warehouse");
            issued_at(1767225600000);
            expires_at({expires});
            shard(0);
            mint_epoch(1);
            development(true);
            check if presented_tenant("dev");
            check if presented_session("ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e");
            check if presented_audience("warehouse");
            check if now($now), $now < {until};
            check if presented_digest({checked});
            "#
        );
        Ok(token.root_key_id(1).build(&root)?.seal()?.to_vec()?)
    };
    let sample = mint()?;
    let verify = || -> Result<()> {
        let token = Biscuit::from(black_box(&sample), root.public())?;
        let digest = digest.clone();
        let authorizer = authorizer!(
            r#"
            presented_tenant("dev");
            presented_session("ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e");
            presented_audience("warehouse");
            presented_digest({digest});
            now(1767225601000);
            allow if true;
            "#
        );
        // The library's own limit is a millisecond of wall time, which a busy machine exceeds.
        let limits = biscuit_auth::AuthorizerLimits {
            max_time: Duration::from_secs(1),
            ..biscuit_auth::AuthorizerLimits::default()
        };
        authorizer.set_limits(limits).build(&token)?.authorize()?;
        Ok(())
    };
    Ok((cost(window, || mint().map(drop))?, cost(window, verify)?, sample.len()))
}

/// A JWS over what a holder's proof says, verified by the library that reads credentials.
fn proof(window: Duration) -> Result<f64> {
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};

    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let pem = key.to_pkcs8_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF)?;
    let public = key.verifying_key().to_public_key_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF)?;
    let claims = json!({
        "ath": "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
        "act": "8a6724851f0eb2aa1c7a34261dae400fa211418ebacd4987e1727822457b7db2",
        "aud": "warehouse",
        "jti": "019b76da-9c48-7a11-8e0b-52d4f7c01b9e",
        "iat": 1_767_225_600,
        "exp": 4_102_444_800_u64,
    });
    let text = encode(&Header::new(Algorithm::EdDSA), &claims, &EncodingKey::from_ed_pem(pem.as_bytes())?)?;
    let (public, mut validation) = (DecodingKey::from_ed_pem(public.as_bytes())?, Validation::new(Algorithm::EdDSA));
    validation.set_audience(&["warehouse"]);
    cost(window, || {
        decode::<serde_json::Value>(black_box(&text), &public, &validation)?;
        Ok(())
    })
}

/// Synced writes, one after the other: what one caller alone waits for.
fn writes(path: &Path, window: Duration) -> Result<(Histogram<u64>, f64)> {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let database = rocksdb::DB::open(&options, path)?;
    let mut synced = rocksdb::WriteOptions::default();
    synced.set_sync(true);
    // Not one byte again and again: a file system may compress.
    let value: Vec<u8> = (0..WRITE_BYTES).map(|i| u8::try_from(i * 37 % 251)).collect::<std::result::Result<_, _>>()?;
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let (started, before) = (Instant::now(), thread_cpu()?);
    let mut key = 0_u64;
    while started.elapsed() < window {
        let asked = Instant::now();
        database.put_opt(key.to_be_bytes(), &value, &synced)?;
        latencies.saturating_record(u64::try_from(asked.elapsed().as_micros())?);
        key += 1;
    }
    let cpu = (thread_cpu()? - before).as_secs_f64() * 1e6 / key.max(1) as f64;
    Ok((latencies, cpu))
}

/// The CPU of one run, in microseconds: not its time, because others may be running.
fn cost(window: Duration, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..100 {
        run()?;
    }
    let (started, before) = (Instant::now(), thread_cpu()?);
    let mut runs = 0_u32;
    while started.elapsed() < window {
        for _ in 0..100 {
            run()?;
        }
        runs += 100;
    }
    Ok((thread_cpu()? - before).as_secs_f64() * 1e6 / f64::from(runs))
}

/// The CPU that this thread has used so far, to the nanosecond.
fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split_whitespace().next().ok_or("/proc/thread-self/schedstat is empty")?.parse()?))
}
