//! What every call goes through: credential, limits, deadline, trace and metrics.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_core::time::SystemClock;
use countersign_core::{Clock, Digest, TenantId, Timestamp};
use countersign_engine::{Call, Credential, Engine, Error, RequestId};
use countersign_store::RocksKernel;
use countersign_token::holder_of_certificate;
use http::HeaderMap;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};
use tracing::Instrument;

use super::errors::{Failure, reason_name};
use crate::config::Limits;
use crate::http::{Readiness, metrics as names};
use crate::identity::{Authenticator, CredentialError, bearer};
use crate::listen::Peer;
use crate::proto::code_name;
use crate::telemetry;

/// The engine that serves: on RocksDB.
pub type ServedEngine = Engine<RocksKernel>;

/// The tenants that are served, each with the directory that its bundle is read from.
pub type Tenants = BTreeMap<TenantId, (Arc<ServedEngine>, PathBuf)>;

/// What the services share.
#[derive(Clone)]
pub struct Backend(Arc<Shared>);

struct Shared {
    tenants: Tenants,
    authenticator: Arc<Authenticator>,
    limits: Limits,
    requests: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    callers: Mutex<HashMap<String, Slots>>,
    clock: SystemClock,
    readiness: watch::Receiver<Readiness>,
}

/// One caller's slots for requests and for watch streams.
type Slots = (Arc<Semaphore>, Arc<Semaphore>);

/// One call, verified and within its limits.
#[derive(Clone)]
pub struct Verified {
    /// The tenant's engine.
    pub engine: Arc<ServedEngine>,
    /// The directory of the tenant's bundle.
    pub bundle_dir: PathBuf,
    /// The call, for the engine.
    pub call: Call,
}

impl Backend {
    /// What the services share.
    #[must_use]
    pub fn new(
        tenants: Tenants,
        authenticator: Arc<Authenticator>,
        limits: Limits,
        readiness: watch::Receiver<Readiness>,
    ) -> Self {
        let requests = Arc::new(Semaphore::new(limits.requests_in_flight as usize));
        let watches = Arc::new(Semaphore::new(limits.watches as usize));
        let (callers, clock) = (Mutex::default(), SystemClock::default());
        Self(Arc::new(Shared { tenants, authenticator, limits, requests, watches, callers, clock, readiness }))
    }

    /// Who verifies credentials.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        &self.0.authenticator
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Waits until the server is on its way out.
    pub async fn draining(self) {
        let mut readiness = self.0.readiness.clone();
        // A sender that is gone is a server that is.
        let _gone = readiness.wait_for(|state| *state == Readiness::Draining).await;
    }

    /// The wall clock that credentials are held against.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        self.0.clock.wall()
    }

    /// The credential in the headers of a request, or else the certificate of whoever sends it. What was verified before is known at once; only when an issuer is to be asked
    /// for newer keys is there something to wait for.
    ///
    /// # Errors
    /// The status of a credential that is not good.
    pub async fn gate(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Arc<Credential>, Status> {
        let certificates = peer.map(|peer| &*peer.certificates).unwrap_or_default();
        let verified = match bearer(headers) {
            // A certificate beside a token only secures the connection: it may be that of a proxy.
            Err(CredentialError::Absent) if !certificates.is_empty() => {
                self.0.authenticator.workload(certificates, self.wall())
            }
            Ok(token) => self.0.authenticator.authenticate(token, || self.wall()).await,
            Err(error) => Err(error),
        };
        let verified = verified.map_err(refused_credential);
        if verified.is_err() {
            told(&verified);
        }
        verified.map_err(Status::from)
    }

    /// Runs one unary call: verified, within the caller's and the server's limits, until its deadline.
    pub async fn handle<M: Message, R, F>(
        &self,
        rpc: &'static str,
        request: Request<M>,
        request_id: impl FnOnce(&M) -> &str,
        run: impl FnOnce(Verified, M) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<R, Failure>> + Send,
    {
        let started = Instant::now();
        let (metadata, extensions, message) = request.into_parts();
        let gated = extensions.get::<Arc<Credential>>().cloned();
        let certificate = certificate(&extensions);
        let credential = gated.map_or_else(|| self.authenticate(&metadata), Ok);
        // A message is looked at when it is known to be somebody's.
        let request = if credential.is_ok() { request_id_of(request_id(&message), &message) } else { Ok(None) };
        // All at once: a field that is added later has the whole line written anew.
        let span = tracing::info_span!(
            "rpc",
            rpc,
            caller = credential.as_ref().ok().map(|credential| tracing::field::display(credential.hash)),
            request_id = request.as_ref().ok().and_then(Option::as_ref).map(|request| request.id.as_str()),
        );
        telemetry::set_parent_from_metadata(&metadata, &span);
        let work = async {
            let credential = credential?;
            let _permits = self.admit(&credential)?;
            let mut verified = self.verified(rpc, credential, certificate)?;
            let (engine, call) = (Arc::clone(&verified.engine), verified.call.clone());
            let deadline = deadline(&metadata).unwrap_or(Duration::MAX).min(self.0.limits.request_timeout());
            let answer = async {
                verified.call.request = request?;
                run(verified, message).await
            };
            match tokio::time::timeout(deadline, answer).await.unwrap_or(Err(Failure::Deadline)) {
                Ok(answer) => Ok(answer),
                Err(failure) => Err(failure.recorded(&engine, &call).await),
            }
        };
        let under_way = UnderWay::new();
        let result = work.instrument(span.clone()).await;
        drop(under_way);
        let code = span.in_scope(|| told(&result));
        metrics::histogram!(names::RPC_SECONDS, "method" => rpc, "code" => code).record(started.elapsed());
        result.map(Response::new).map_err(Status::from)
    }

    /// Admits one watch stream. The permits are held as long as it lives.
    pub fn watch<M>(&self, rpc: &'static str, request: &Request<M>) -> Result<(Verified, Permits), Failure> {
        let gated = request.extensions().get::<Arc<Credential>>().cloned();
        let credential = gated.map_or_else(|| self.authenticate(request.metadata()), Ok)?;
        let (_, own) = self.caller(&credential);
        let own = take(&own, "watches_per_caller", "watch streams of yours", self.0.limits.watches_per_caller)?;
        let permits = (own, take(&self.0.watches, "watches", "watch streams", self.0.limits.watches)?);
        Ok((self.verified(rpc, credential, certificate(request.extensions()))?, permits))
    }

    fn authenticate(&self, metadata: &MetadataMap) -> Result<Arc<Credential>, Failure> {
        let verified = bearer(metadata.as_ref()).and_then(|token| self.0.authenticator.verify(token, self.wall()));
        verified.map_err(refused_credential)
    }

    fn verified(
        &self,
        rpc: &'static str,
        credential: Arc<Credential>,
        certificate: Option<Digest>,
    ) -> Result<Verified, Failure> {
        let (engine, bundle_dir) = self
            .0
            .tenants
            .get(&credential.tenant)
            .ok_or_else(|| Error::Internal(format!("no engine for tenant {}", credential.tenant)))?;
        let call = Call { credential, rpc, certificate, request: None };
        Ok(Verified { engine: Arc::clone(engine), bundle_dir: bundle_dir.clone(), call })
    }

    fn admit(&self, credential: &Credential) -> Result<Permits, Failure> {
        let (own, _) = self.caller(credential);
        // The caller's own limit first: a flood of one takes nothing from the others (I14).
        let limits = &self.0.limits;
        let own =
            take(&own, "requests_in_flight_per_caller", "requests of yours", limits.requests_in_flight_per_caller)?;
        Ok((own, take(&self.0.requests, "requests_in_flight", "requests", limits.requests_in_flight)?))
    }

    fn caller(&self, credential: &Credential) -> Slots {
        let key =
            format!("{}\n{}\n{:?}\n{:?}", credential.tenant, credential.issuer, credential.subject, credential.actors);
        let mut callers = self.0.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() > 10_000 {
            callers.retain(|_, (requests, watches)| Arc::strong_count(requests) > 1 || Arc::strong_count(watches) > 1);
        }
        let limits = &self.0.limits;
        let new = || {
            let requests = Semaphore::new(limits.requests_in_flight_per_caller as usize);
            (Arc::new(requests), Arc::new(Semaphore::new(limits.watches_per_caller as usize)))
        };
        callers.entry(key).or_insert_with(new).clone()
    }
}

/// What the connection's client certificate is known by (RFC 8705): that the caller holds its key, the handshake has shown.
fn certificate(extensions: &Extensions) -> Option<Digest> {
    let peer = extensions.get::<Peer>()?;
    peer.certificates.first().map(|own| holder_of_certificate(own).thumbprint)
}

fn refused_credential(error: CredentialError) -> Failure {
    metrics::counter!(names::CREDENTIALS_REFUSED_TOTAL, "reason" => error.reason()).increment(1);
    error.into()
}

/// Counts a call as under way as long as somebody waits for it: also one that nobody waits for any more is no longer.
struct UnderWay;

impl UnderWay {
    fn new() -> Self {
        metrics::gauge!(names::RPCS_IN_FLIGHT).increment(1.0);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        metrics::gauge!(names::RPCS_IN_FLIGHT).decrement(1.0);
    }
}

/// Runs work to its end, whoever stops waiting for it: what follows upon a commit must follow, or this process and its store
/// would no longer agree.
pub async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.map_err(|error| Error::Internal(error.to_string()))?.map_err(Failure::from)
}

/// Held while a call runs.
pub type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

fn take(
    semaphore: &Arc<Semaphore>,
    name: &'static str,
    what: &str,
    limit: u32,
) -> Result<OwnedSemaphorePermit, Failure> {
    Arc::clone(semaphore).try_acquire_owned().map_err(|_| {
        metrics::counter!(names::LIMITED_TOTAL, "limit" => name).increment(1);
        Error::LimitReached(format!("{limit} {what} are under way, the most that are allowed; try again later")).into()
    })
}

/// The request id, with the digest of everything that it came with. A message encodes to the same bytes each time, because
/// its maps are ordered.
pub fn request_id_of<M: Message>(id: &str, message: &M) -> Result<Option<RequestId>, Failure> {
    if id.is_empty() {
        return Ok(None);
    }
    let uuid = uuid::Uuid::try_parse(id).ok().filter(|uuid| uuid.hyphenated().to_string() == id);
    if uuid.is_none_or(|uuid| uuid.is_nil()) {
        return Err(Failure::field("request_id", "expected a lowercase UUID with hyphens, and not the nil one"));
    }
    Ok(Some(RequestId { id: id.to_owned(), body: Digest::of(&message.encode_to_vec()) }))
}

/// Logs what became of a call, and returns its code as metrics name it.
fn told<R>(result: &Result<R, Failure>) -> &'static str {
    let Err(failure) = result else { return "OK" };
    let (code, reason) = failure.classify();
    let reason = reason_name(reason);
    if matches!(failure, Failure::Credential(_)) {
        // Anybody who reaches the port could fill the log. They are counted, and of keys that are not there whoever fetches them tells.
        tracing::debug!(%failure, reason, "credential refused");
    } else if matches!(code, tonic::Code::Internal | tonic::Code::Unavailable) {
        tracing::error!(%failure, reason, "call failed");
    } else {
        tracing::info!(%failure, reason, "call refused");
    }
    code_name(code)
}

/// The deadline that the caller set (`grpc-timeout`, gRPC over HTTP/2): at most eight digits and a unit.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(amount.saturating_mul(3_600))),
        "M" => Some(Duration::from_secs(amount.saturating_mul(60))),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _other => None,
    }
}
