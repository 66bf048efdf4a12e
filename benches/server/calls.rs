//! Who calls, and what. The generated clients are used as they are, so that the client takes little of the machine.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign::client::{holder_of, operation};
use countersign::identity::DevIssuer;
use countersign::proto::capability_service_client::CapabilityServiceClient;
use countersign::proto::decision_service_client::DecisionServiceClient;
use countersign::proto::session_service_client::SessionServiceClient;
use countersign::proto::{
    CapabilityState, CompleteRequest, DecideRequest, DecideResponse, Holder, OpenSessionRequest, Operation, Outcome,
    RedeemRequest, RedeemResponse, Verdict,
};
use countersign_core::Timestamp;
use countersign_core::time::{Clock as _, SystemClock};
use countersign_token::HolderKey;
use prost::Message as _;
use serde_json::json;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::{Result, echo};

/// Who asks. Several, because what one caller may have under way is limited.
const AGENTS: [&str; 4] = ["agent:etl-bot", "agent:deploy-bot", "agent:ops-bot", "agent:chat-bot"];
/// For whom.
const OPERATOR: &str = "olivia";
/// Where it would run, and who spends there.
const AUDIENCE: &str = "warehouse";
const GATEWAY: &str = "service:warehouse-gateway";
/// Longer than any measurement.
const TTL: Duration = Duration::from_secs(4 * 3600);

type Bearer = MetadataValue<Ascii>;

/// The callers, each agent with a session.
pub struct Cast {
    agents: Vec<(Bearer, String)>,
    gateway: Bearer,
    operation: Operation,
    sample: String,
    holder: Arc<HolderKey>,
}

impl Cast {
    /// Gives everybody a credential, and opens the sessions.
    pub async fn open(endpoint: &str, data: &Path) -> Result<Self> {
        let issuer = DevIssuer::open_or_create(data)?;
        let now = Timestamp::from_millis(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?);
        let bearer = |subject: &str, operator: Option<&str>| -> Result<Bearer> {
            let token = issuer.token(subject, operator, &[], now, TTL)?;
            Ok(format!("Bearer {token}").parse()?)
        };
        let mut sessions = SessionServiceClient::new(connect(endpoint).await?);
        let mut agents = Vec::new();
        for agent in AGENTS {
            let bearer = bearer(agent, Some(OPERATOR))?;
            let request = OpenSessionRequest {
                purpose: "to measure".to_owned(),
                ttl: Some(prost_types::Duration { seconds: i64::try_from(TTL.as_secs())?, nanos: 0 }),
                request_id: uuid(),
                ..OpenSessionRequest::default()
            };
            let opened = sessions.open_session(with(&bearer, request)).await?.into_inner();
            agents.push((bearer, opened.session.ok_or("no session was opened")?.session_id));
        }
        // What passes untouched: the case that there is most of.
        let operation = operation(
            "query",
            ("Dataset", "telemetry"),
            json!({"statement": "select count(*) from telemetry where day = '2026-11-18'", "columns": ["day", "host"]}),
            json!({}),
        )?;
        let holder = Arc::new(HolderKey::generate()?);
        Ok(Self { agents, gateway: bearer(GATEWAY, None)?, operation, sample: String::new(), holder })
    }

    /// Asks each thing once, and writes the answers for the echo server.
    pub async fn sample(&mut self, endpoint: &str, answers: &Path) -> Result<()> {
        let workers = self.workers(endpoint, 1, 1).await?;
        let mut worker = workers.into_iter().next().ok_or("no worker")?;
        let decided = worker.ask(false, None).await?;
        let minted = worker.ask(true, None).await?;
        self.sample = token(&minted)?;
        let redeemed = worker.spend(self.sample.clone(), false).await?;
        std::fs::write(answers.join(echo::DECIDED), decided.encode_to_vec())?;
        std::fs::write(answers.join(echo::MINTED), minted.encode_to_vec())?;
        std::fs::write(answers.join(echo::REDEEMED), redeemed.encode_to_vec())?;
        Ok(())
    }

    /// So many callers over so many connections.
    pub async fn workers(&self, endpoint: &str, count: usize, connections: usize) -> Result<Vec<Worker>> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(connect(endpoint).await?);
        }
        let workers = channels.iter().cycle().zip(self.agents.iter().cycle()).take(count);
        let workers = workers.map(|(channel, (agent, session))| Worker {
            decisions: DecisionServiceClient::new(channel.clone()),
            capabilities: CapabilityServiceClient::new(channel.clone()),
            agent: agent.clone(),
            gateway: self.gateway.clone(),
            session: session.clone(),
            operation: self.operation.clone(),
            sample: self.sample.clone(),
            holder: Arc::clone(&self.holder),
            tokens: Vec::new(),
        });
        Ok(workers.collect())
    }
}

/// One that calls, one call at a time.
pub struct Worker {
    decisions: DecisionServiceClient<Channel>,
    capabilities: CapabilityServiceClient<Channel>,
    agent: Bearer,
    gateway: Bearer,
    session: String,
    operation: Operation,
    sample: String,
    holder: Arc<HolderKey>,
    tokens: Vec<String>,
}

impl Worker {
    /// Decides without a capability.
    pub async fn decide(mut self) -> Result<Self> {
        self.ask(false, None).await?;
        Ok(self)
    }

    /// Decides with one.
    pub async fn mint(mut self) -> Result<Self> {
        self.ask(true, None).await?;
        Ok(self)
    }

    /// The same, and keeps the token.
    pub async fn keep_token(mut self) -> Result<Self> {
        let minted = self.ask(true, None).await?;
        self.tokens.push(token(&minted)?);
        Ok(self)
    }

    /// Spends a token that was kept.
    pub async fn redeem(mut self) -> Result<Self> {
        let token = self.tokens.pop().ok_or("no token is left to spend")?;
        self.spend(token, false).await?;
        Ok(self)
    }

    /// Decides with a capability that is bound to a key, and keeps the token.
    pub async fn keep_bound_token(mut self) -> Result<Self> {
        let holder = Some(holder_of(&self.holder));
        let minted = self.ask(true, holder).await?;
        self.tokens.push(token(&minted)?);
        Ok(self)
    }

    /// Spends such a token, with a proof.
    pub async fn redeem_bound(mut self) -> Result<Self> {
        let token = self.tokens.pop().ok_or("no token is left to spend")?;
        self.spend(token, true).await?;
        Ok(self)
    }

    /// Sends a redeem that only the echo server answers twice.
    pub async fn redeem_sample(mut self) -> Result<Self> {
        self.spend(self.sample.clone(), false).await?;
        Ok(self)
    }

    /// A whole action: decided, spent, and its outcome reported.
    pub async fn whole(mut self) -> Result<Self> {
        let minted = self.ask(true, None).await?;
        let receipt = self.spend(token(&minted)?, false).await?;
        let request = CompleteRequest {
            capability_id: receipt.capability_id,
            outcome: Outcome::Succeeded.into(),
            request_id: uuid(),
            ..CompleteRequest::default()
        };
        let completed = self.capabilities.complete(with(&self.gateway, request)).await?.into_inner();
        match completed.capability {
            Some(capability) if capability.state() == CapabilityState::Succeeded => Ok(self),
            other => Err(format!("the outcome was not taken: {other:?}").into()),
        }
    }

    async fn ask(&mut self, mint: bool, holder: Option<Holder>) -> Result<DecideResponse> {
        let request = DecideRequest {
            session_id: self.session.clone(),
            operation: Some(self.operation.clone()),
            audience: AUDIENCE.to_owned(),
            mint,
            holder,
            // Without a capability nothing needs to be recognized when it is retried.
            request_id: if mint { uuid() } else { String::new() },
            ..DecideRequest::default()
        };
        let answer = self.decisions.decide(with(&self.agent, request)).await?.into_inner();
        if answer.verdict() == Verdict::Allow { Ok(answer) } else { Err(format!("not allowed: {answer:?}").into()) }
    }

    async fn spend(&mut self, token: String, bound: bool) -> Result<RedeemResponse> {
        let operation = Some(self.operation.clone());
        let (audience, request_id) = (AUDIENCE.to_owned(), uuid());
        let now = SystemClock::default().wall();
        let holder_proof = if bound { self.holder.prove(&token, &request_id, now)? } else { String::new() };
        let request = RedeemRequest { token, operation, audience, request_id, holder_proof };
        Ok(self.capabilities.redeem(with(&self.gateway, request)).await?.into_inner())
    }
}

async fn connect(endpoint: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect().await?)
}

fn with<T>(bearer: &Bearer, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", bearer.clone());
    request
}

fn token(answer: &DecideResponse) -> Result<String> {
    Ok(answer.capability.as_ref().ok_or("no capability was minted")?.token.clone())
}

fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
