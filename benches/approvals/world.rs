//! An engine on a store of its own, and who calls it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use countersign_audit::NoteSigner;
use countersign_core::approval::{Approval, Verdict};
use countersign_core::restraint::AskingBudget;
use countersign_core::time::SystemClock;
use countersign_core::{ApprovalId, Axis, Digest, EntityRef, SessionId, TenantId, Timestamp, Value};
use countersign_engine::{
    Acting, AdmitAll, Ask, Authentication, Ballot, Call, Claims, Credential, Engine, Error, Limits, OpenSession,
    Operation, Parts, RequestId, RevisionRule, Seen, Subject, Told, Wanted,
};
use countersign_policy::Source;
use countersign_store::repository::Stored;
use countersign_store::{Config, Mode, RocksKernel};
use countersign_token::{KeyId, SigningKey};
use futures::Stream;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{PAGE, Result};

const ISSUER: &str = "iss";
const SCHEMA: &str = "entity Dataset;\n\
    action export, purge appliesTo { principal: [Agent], resource: [Dataset], context: { input: { row: Long } } };\n";
const WORK: &str = r#"
    @id("work") permit (principal, action, resource is Dataset);
    @id("asks") @quorum("2") @ttl("24h") @reason("Data leaves the house")
    forbid (principal, action in [Action::"export", Action::"purge"], resource is Dataset)
    unless { context has approval && context.approval.rules.contains("asks") };
"#;
const APPROVE: &str = r#"
    @id("generalists") permit (principal in Group::"generalists", action == Action::"approve", resource);
    @id("specialists") permit (principal in Group::"specialists", action == Action::"approve", resource)
    when { context.operation == "purge" };
"#;
const ADMIN: &str = r#"
    @id("open") permit (principal, action == Action::"openSession", resource);
    @id("told") permit (principal == Person::"generalist", action in [Action::"readRevocations", Action::"revoke"], resource);
"#;

/// How many agents ask in turn: what one of them may have pending is limited.
const AGENTS: usize = 128;

pub struct World {
    engine: Arc<Engine<RocksKernel>>,
    /// Those who ask, each with a session.
    agents: Vec<(String, SessionId)>,
}

impl World {
    pub async fn open(dir: &Path) -> Result<Self> {
        let kernel = Arc::new(RocksKernel::create(dir, &Config::new(Mode::Development))?);
        let parts = Parts {
            tenant: TenantId::new("acme")?,
            limits: Limits { asking: AskingBudget { pending: u32::MAX, per_hour: u32::MAX }, ..Limits::default() },
            signing: vec![SigningKey::from_seed(KeyId(1), Zeroizing::new([3; 32]))?],
            commitment: Zeroizing::new([5; 32]),
            log: NoteSigner::from_seed("bench.example/log", &[7; 32])?,
            development: true,
            admission: Arc::new(AdmitAll),
            sinks: Vec::new(),
        };
        let engine = Arc::new(Engine::open(kernel, Box::new(SystemClock::default()), parts).await?);
        engine.activate(Source::from_files(files())?, RevisionRule::NotLower).await?;
        let opening = OpenSession {
            purpose: "to measure".to_owned(),
            ttl: None,
            acting: Acting::Caller,
            ..OpenSession::default()
        };
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            let agent = format!("agent:{number}");
            let session = engine.open_session(&call(&agent, "OpenSession")?, &opening).await?.answer.value.id;
            agents.push((agent, session));
        }
        Ok(Self { engine, agents })
    }

    /// Puts a question about one row: of a kind that everybody may answer, or that specialists may, too.
    pub async fn ask(&self, row: usize, rare: bool) -> Result<ApprovalId> {
        let operation = Operation {
            name: if rare { "purge" } else { "export" }.to_owned(),
            resource: EntityRef::new("Dataset", "customers")?,
            input: [("row".to_owned(), Value::Long(i64::try_from(row)?))].into(),
            environment: Default::default(),
        };
        let (agent, session) = self.agents.get(row % AGENTS).ok_or("no agent")?;
        let ask = Ask {
            session: *session,
            operation,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "to see what it takes".to_owned(),
        };
        Ok(self.engine.ask(&call(agent, "RequestApproval")?, &ask).await?.answer.0)
    }

    /// The next page of what is pending and somebody may see.
    pub async fn page(&self, who: &str, before: Option<ApprovalId>) -> Result<(Vec<ApprovalId>, Option<ApprovalId>)> {
        let page = self.engine.live_approvals(&call(who, "ListApprovals")?, before, PAGE, Wanted::Pending).await?;
        Ok((page.items.iter().map(|item| item.approval.value.id).collect(), page.next))
    }

    /// How many there are that somebody may see, by reading every page.
    pub async fn all(&self, who: &str) -> Result<usize> {
        let (mut number, mut before) = (0_usize, None);
        loop {
            let (page, next) = self.page(who, before).await?;
            number = number.saturating_add(page.len());
            match next {
                Some(next) => before = Some(next),
                None => return Ok(number),
            }
        }
    }

    /// So many that somebody may answer.
    pub async fn some(&self, who: &str, number: usize) -> Result<Vec<ApprovalId>> {
        let (mut some, mut before) = (Vec::new(), None);
        while some.len() < number {
            let (page, next) = self.page(who, before).await?;
            some.extend(page);
            match next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        some.truncate(number);
        Ok(some)
    }

    pub async fn look(&self, who: &str, id: ApprovalId) -> Result<Stored<Approval>> {
        Ok(self.engine.changed_approval(&call(who, "GetApproval")?, id).await?.approval)
    }

    pub async fn vote(&self, who: &str, shown: &Stored<Approval>) -> Result<()> {
        let Stored { value: Approval { id, digest, view, .. }, .. } = shown;
        let ballot = Ballot {
            approval: *id,
            verdict: Verdict::Approve,
            digest: *digest,
            view: *view,
            comment: String::new(),
            signed: None,
        };
        self.engine.vote(&call(who, "CastVote")?, &ballot).await?;
        Ok(())
    }

    pub fn watch_revocations(
        &self,
        who: &str,
    ) -> Result<impl Stream<Item = std::result::Result<Told, Error>> + Send + 'static + use<>> {
        Ok(Arc::clone(&self.engine).watch_revocations(call(who, "WatchRevocations")?, None))
    }

    /// Revokes an agent, and answers where that is in the order of revocations.
    pub async fn revoke(&self, who: &str, agent: usize) -> Result<u64> {
        let axis = Axis::Principal(EntityRef::new("Agent", agent.to_string())?);
        Ok(self.engine.revoke_all(&call(who, "RevokeAll")?, &axis, "to see what it takes").await?.answer.sequence)
    }

    pub fn watch(
        &self,
        who: &str,
    ) -> Result<impl Stream<Item = std::result::Result<Seen, Error>> + Send + 'static + use<>> {
        Ok(Arc::clone(&self.engine).watch_approvals(call(who, "WatchApprovals")?, None, None))
    }
}

fn files() -> BTreeMap<String, String> {
    let person = |id: &str, groups: &[&str]| {
        let groups: Vec<_> = groups.iter().map(|id| json!({ "type": "Group", "id": id })).collect();
        json!({ "uid": { "type": "Person", "id": id }, "attrs": { "accounts": [format!("{ISSUER}#{id}")] }, "parents": groups })
    };
    let owned = |kind: &str, id: &str| {
        let owner = json!({ "__entity": { "type": "Person", "id": "owner" } });
        json!({ "uid": { "type": kind, "id": id }, "attrs": { "owner": owner }, "parents": [] })
    };
    let plain = |kind: &str, id: &str| json!({ "uid": { "type": kind, "id": id }, "attrs": {}, "parents": [] });
    let agents = (0..AGENTS).map(|number| owned("Agent", &number.to_string()));
    let mut entities = vec![
        person("owner", &[]),
        person("generalist", &["generalists"]),
        person("specialist", &["specialists"]),
        plain("Group", "generalists"),
        plain("Group", "specialists"),
        plain("Dataset", "customers"),
        plain("Tenant", "acme"),
        owned("EnforcementPoint", "gate"),
    ];
    entities.extend(agents);
    [
        ("bundle.toml", "format = 1\nname = \"approvals\"\nrevision = 1\n".to_owned()),
        ("schema.cedarschema", SCHEMA.to_owned()),
        ("entities.json", json!(entities).to_string()),
        ("policies/work.cedar", WORK.to_owned()),
        ("approve/approve.cedar", APPROVE.to_owned()),
        ("admin/admin.cedar", ADMIN.to_owned()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}

fn call(who: &str, rpc: &'static str) -> Result<Call> {
    let id = uuid::Uuid::new_v4().to_string();
    let subject = match who.strip_prefix("agent:") {
        Some(agent) => Subject::Agent(agent.to_owned()),
        None => Subject::Account(who.to_owned()),
    };
    let credential = Credential {
        tenant: TenantId::new("acme")?,
        issuer: ISSUER.to_owned(),
        subject,
        actors: Vec::new(),
        claims: Claims::default(),
        expires_at: Timestamp::from_millis(i64::MAX),
        answers: Ok(Timestamp::from_millis(i64::MAX)),
        authentication: Authentication::default(),
        hash: Digest::of(who.as_bytes()),
    };
    let request = Some(RequestId { body: Digest::of(id.as_bytes()), id });
    Ok(Call { credential: Arc::new(credential), rpc, certificate: None, request })
}
