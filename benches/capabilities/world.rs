//! An engine on a store of its own, and capabilities in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::NoteSigner;
use countersign_core::capability::{Capability, Grant};
use countersign_core::time::{Clock as _, SystemClock};
use countersign_core::{DecisionId, Digest, EntityRef, SessionId, TenantId, Timestamp, TokenId};
use countersign_engine::{
    Acting, AdmitAll, Authentication, Call, Claims, Credential, Decide, Decision, Engine, Limits, OpenSession,
    Operation, Parts, Redeem, RequestId, RevisionRule, Subject,
};
use countersign_policy::Source;
use countersign_store::repository::CommitExt as _;
use countersign_store::{Commit, Config, Kernel as _, Mode, RocksKernel};
use countersign_token::{KeyId, SigningKey};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use zeroize::Zeroizing;

use crate::Result;

const SCHEMA: &str = "entity Dataset;\naction query appliesTo { principal: [Agent], resource: [Dataset] };\n";
const WORK: &str = r#"@id("work") permit (principal, action, resource is Dataset);"#;
const ADMIN: &str = r#"@id("all") permit (principal, action in [Action::"openSession", Action::"redeem", Action::"readLog"], resource);"#;
/// As many writes as a commit takes, and as many commits as wait for the writer at once.
const CHUNK: usize = 64;
const AT_ONCE: usize = 256;

pub struct World {
    pub kernel: Arc<RocksKernel>,
    pub engine: Engine<RocksKernel>,
    session: SessionId,
}

impl World {
    pub async fn open(dir: &Path) -> Result<Self> {
        let kernel = Arc::new(RocksKernel::create(dir, &Config::new(Mode::Development))?);
        let parts = Parts {
            tenant: TenantId::new("acme")?,
            limits: Limits { session_ttl: Duration::from_secs(86_400), ..Limits::default() },
            signing: vec![SigningKey::from_seed(KeyId(1), Zeroizing::new([3; 32]))?],
            commitment: Zeroizing::new([5; 32]),
            log: NoteSigner::from_seed("bench.example/log", &[7; 32])?,
            development: true,
            admission: Arc::new(AdmitAll),
            sinks: Vec::new(),
        };
        let engine = Engine::open(Arc::clone(&kernel), Box::new(SystemClock::default()), parts).await?;
        engine.activate(Source::from_files(files())?, RevisionRule::NotLower).await?;
        let opening = OpenSession { purpose: "to measure".to_owned(), ..OpenSession::default() };
        let session = engine.open_session(&call("OpenSession")?, &opening).await?.answer.value.id;
        Ok(Self { kernel, engine, session })
    }

    /// Makes capabilities that do not expire in this hour: every other one is spent. `told` learns how many there are.
    pub async fn fill(&self, number: usize, told: impl Fn(usize) -> Result<()>) -> Result<()> {
        let now = SystemClock::default().wall();
        let commits = (0..number.div_ceil(CHUNK)).map(|chunk| async move {
            let mut commit = Commit::new(TenantId::new("acme")?);
            for place in 0..CHUNK.min(number - chunk * CHUNK) {
                commit = commit.insert(&self.capability(place % 2 == 0, now)?);
            }
            self.kernel.commit(commit).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(chunk)
        });
        let mut done = futures::stream::iter(commits).buffer_unordered(AT_ONCE);
        let mut chunks = 0_usize;
        while done.try_next().await?.is_some() {
            chunks += 1;
            if chunks.is_multiple_of(1_000) {
                told(chunks * CHUNK)?;
            }
        }
        Ok(())
    }

    fn capability(&self, spent: bool, now: Timestamp) -> Result<Capability> {
        let agent = EntityRef::new("Agent", "bot")?;
        let grant = Grant {
            id: TokenId::generate(),
            session: self.session,
            principal: agent.clone(),
            operator: None,
            operation: "query".to_owned(),
            resource: EntityRef::new("Dataset", "customers")?,
            digest: Digest::of(b"another action"),
            audience: "gate".to_owned(),
            approval: None,
            review: None,
            holder: None,
            open: false,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(3_600)),
            shard: 0,
            mint_epoch: 1,
            key: 1,
            parent: None,
            chain: Vec::new(),
            grandparents: Vec::new(),
            sessions_above: Vec::new(),
            votes: Vec::new(),
        };
        let mut capability = Capability::mint(grant, DecisionId::generate(), Digest::of(b"bundle"));
        if spent {
            capability.redeem(agent, now, now.plus(Duration::from_secs(3_600)))?;
        }
        Ok(capability)
    }

    pub async fn mint(&self) -> Result<Decision> {
        let decide = Decide {
            session: self.session,
            operation: operation()?,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval: None,
            mint: true,
            entity_revision: None,
            holder: None,
            open: false,
        };
        Ok(self.engine.decide(&call("Decide")?, &decide).await?.answer)
    }

    pub async fn redeem(&self, minted: &Decision) -> Result<()> {
        let token = minted.token.as_ref().ok_or("no capability was minted")?.expose().to_owned();
        let redeem =
            Redeem { token, operation: operation()?, audience: "gate".to_owned(), holder_proof: String::new() };
        self.engine.redeem(&call("Redeem")?, &redeem).await?;
        Ok(())
    }
}

fn operation() -> Result<Operation> {
    let resource = EntityRef::new("Dataset", "customers")?;
    Ok(Operation { name: "query".to_owned(), resource, input: Default::default(), environment: Default::default() })
}

pub fn call(rpc: &'static str) -> Result<Call> {
    let id = DecisionId::generate().to_string();
    let credential = Credential {
        tenant: TenantId::new("acme")?,
        issuer: "iss".to_owned(),
        subject: Subject::Agent("bot".to_owned()),
        actors: Vec::new(),
        claims: Claims::default(),
        expires_at: Timestamp::from_millis(i64::MAX),
        answers: Ok(Timestamp::from_millis(i64::MAX)),
        authentication: Authentication::default(),
        hash: Digest::of(b"credential"),
    };
    Ok(Call {
        credential: Arc::new(credential),
        certificate: None,
        rpc,
        request: Some(RequestId { body: Digest::of(id.as_bytes()), id }),
    })
}

fn files() -> BTreeMap<String, String> {
    let owner = json!({ "__entity": { "type": "Person", "id": "olivia" } });
    let entities = json!([
        { "uid": { "type": "Person", "id": "olivia" }, "attrs": { "accounts": ["iss#olivia"] }, "parents": [] },
        { "uid": { "type": "Agent", "id": "bot" }, "attrs": { "owner": owner }, "parents": [] },
        { "uid": { "type": "EnforcementPoint", "id": "gate" }, "attrs": { "owner": owner }, "parents": [] },
        { "uid": { "type": "Tenant", "id": "acme" }, "attrs": {}, "parents": [] },
        { "uid": { "type": "Dataset", "id": "customers" }, "attrs": {}, "parents": [] },
    ]);
    [
        ("bundle.toml", "format = 1\nname = \"bench\"\nrevision = 1\n".to_owned()),
        ("schema.cedarschema", SCHEMA.to_owned()),
        ("entities.json", entities.to_string()),
        ("policies/work.cedar", WORK.to_owned()),
        ("admin/admin.cedar", ADMIN.to_owned()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}
