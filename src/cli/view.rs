//! What a human decides on. Everything about the action is read from its canonical form, after that was held against the
//! digest that a vote will name (I3), and nothing of it is cut or left out.

mod bounds;
mod digest;

use countersign::proto::{Approval, ApprovalState, BatchPlace, Entity, History};
use countersign_core::visible::Visible;
use countersign_core::{Action, Digest, EntityRef, PreApproval, Record, Value};

use bounds::used;
pub use bounds::{consent, offer};
use digest::view_digest;
pub use digest::view_text;

use super::caution::with_caution;
use super::failure::Failure;
use super::json;
use super::output::{BAD, FAINT, GOOD, STRONG, WARN, paint, quoted};
use super::text::{Lines, count, entities, entity};
use super::when::relative;

/// An approval request whose action is what its digest says.
#[derive(Debug)]
pub struct Examined<'a> {
    approval: &'a Approval,
    action: Action,
    digest: Digest,
    /// What is pre-approved; `action` is the frame of it then.
    pre: Option<PreApproval>,
}

/// Holds what the server sent against itself.
///
/// # Errors
/// When the digest is not that of the canonical action, when that cannot be read, or when the fields beside it tell another
/// story than it does. Such a request must not be shown as one to decide on, and is never voted on.
pub fn examine(approval: &Approval) -> Result<Examined<'_>, Failure> {
    let refuse = |what: String| {
        Failure::new(what).reason("VIEW_MISMATCH").hint("do not vote on it, and tell whoever runs the server")
    };
    let digest = Digest::of(approval.canonical_action.as_bytes());
    if digest.to_string() != approval.digest {
        return Err(refuse(format!(
            "the action shown has the digest `{digest}`, but the server asks for votes on `{}`",
            Visible::cut(&approval.digest, 64)
        )));
    }
    let unreadable = |error| refuse(format!("this program cannot show the action in full: {error}"));
    let pre = approval.pre_approval.as_ref().map(|_| PreApproval::from_canonical(&approval.canonical_action));
    let pre = pre.transpose().map_err(unreadable)?;
    let action = match &pre {
        Some(pre) => pre.frame(),
        None => Action::from_canonical(&approval.canonical_action).map_err(unreadable)?,
    };
    let same = |stated: Option<&Entity>, canonical: Option<&EntityRef>| match (stated, canonical) {
        (None, None) => true,
        (Some(stated), Some(canonical)) => stated.r#type == canonical.kind() && stated.id == canonical.id(),
        (_, _) => false,
    };
    let chain = approval.chain.len() == action.chain.len()
        && approval.chain.iter().zip(&action.chain).all(|(stated, canonical)| same(Some(stated), Some(canonical)));
    let differs = [
        ("principal", !same(approval.principal.as_ref(), Some(&action.principal))),
        ("operator", !same(approval.operator.as_ref(), action.operator.as_ref())),
        ("chain", !chain),
        ("operation", approval.operation != action.operation),
        ("resource", !same(approval.resource.as_ref(), Some(&action.resource))),
        ("audience", approval.audience != action.audience),
        ("session", approval.session_id != action.session.to_string()),
        ("pre_approval", bounds::differ(approval, pre.as_ref())),
    ];
    if let Some((name, _)) = differs.iter().find(|(_, differs)| *differs) {
        return Err(refuse(format!("the request's `{name}` is not the one of the action that it asks about")));
    }
    if view_digest(approval).map(|view| view.to_string()).as_deref() != Some(&approval.view_digest) {
        return Err(refuse(
            "what the server shows beside the action is not what it asks people to vote on: the view digest is another"
                .to_owned(),
        ));
    }
    Ok(Examined { approval, action, digest, pre })
}

impl Examined<'_> {
    /// The digest, computed here.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// All of it, for a person.
    pub fn human(&self) -> String {
        let (approval, action) = (self.approval, &self.action);
        let mut text = Lines::default();
        let detail = if approval.state_detail.is_empty() {
            String::new()
        } else {
            format!(" ({})", Visible::new(&approval.state_detail))
        };
        text.line(format!(
            "{}  {}{detail}",
            paint(STRONG, format!("Approval {}", Visible::new(&approval.approval_id))),
            state(approval.state()),
        ));

        if let Some(pre) = &self.pre {
            bounds::show(&mut text, approval, pre);
        }
        text.heading("Who");
        text.field("principal", named(&action.principal));
        text.field("acting for", action.operator.as_ref().map_or("nobody but itself".to_owned(), named));
        if !action.chain.is_empty() {
            let chain: Vec<String> = action.chain.iter().map(named).collect();
            text.field("through", chain.join(", "));
        }
        if let Some(owner) = &approval.owner {
            text.field("answerable", entity(Some(owner)));
        }
        text.field("asked by", entity(approval.asked_by.as_ref()));

        text.heading("What");
        text.shown("operation", &action.operation).field("resource", named(&action.resource));
        text.shown("audience", &action.audience).field("session", action.session).field("tenant", &action.tenant);
        if self.pre.is_some() {
            text.field("input", paint(WARN, "ANY, as long as no other rule asks about it"));
            text.field("environment", paint(WARN, "ANY, as long as no other rule asks about it"));
        } else {
            arguments(&mut text, "input", &action.input);
            arguments(&mut text, "environment", &action.environment);
        }

        if let Some(BatchPlace { batch_id, place, of }) = &approval.batch {
            text.field("asked together", format!("{place} of {of}, in {}", Visible::new(batch_id)));
        }

        text.heading("Why");
        text.line(paint(WARN, "  in the asker's own words: untrusted text, never an instruction"));
        text.field("justification", said(&approval.justification));
        for also in &approval.also_asked {
            let by = entity(also.asked_by.as_ref());
            text.field("also asked", format!("{by}: {}", said(&also.justification)));
        }
        text.field("purpose", said(&approval.purpose));
        if !approval.labels.is_empty() {
            let labels: Vec<String> = approval.labels.iter().map(|label| Visible::new(label).to_string()).collect();
            text.heading("What was done before, and what this would leave");
            text.field("labels", paint(WARN, labels.join(", ")));
        }

        text.heading("Rules that ask");
        for rule in &approval.rules {
            let mark = if rule.met { paint(GOOD, "met") } else { paint(WARN, "open") };
            let by = match rule.persons.as_slice() {
                [] => String::new(),
                persons => format!(", by {}", entities(persons)),
            };
            text.line(format!(
                "  {}: {mark}, {} of {} approved{by}",
                paint(STRONG, Visible::new(&rule.rule_id)),
                rule.persons.len(),
                rule.quorum,
            ));
            if !rule.reason.is_empty() {
                text.line(format!("    {}", Visible::new(&rule.reason)));
            }
            if rule.signed_votes {
                text.line("    counts signed approvals only: approve with `--sign`");
            }
        }
        if let Some(History { approved, denied, recent }) = &approval.history {
            text.heading("The same operation on the same resource before");
            text.line(format!(
                "  approved {}, denied {}",
                count(*approved, "time", "times"),
                count(*denied, "time", "times")
            ));
            for precedent in recent {
                text.line(format!(
                    "  {} {} {}: {}",
                    relative(precedent.answered_at.as_ref()),
                    entities(&precedent.persons),
                    json::vote_verdict(precedent.verdict()),
                    entity(precedent.principal.as_ref()),
                ));
            }
        }
        if !approval.votes.is_empty() {
            text.heading("Votes");
            for vote in &approval.votes {
                let comment =
                    if vote.comment.is_empty() { String::new() } else { format!(", {}", said(&vote.comment)) };
                let claimed = match vote.claimed_until.as_ref() {
                    Some(until) => format!(", with groups of a credential (its end: {})", relative(Some(until))),
                    None => String::new(),
                };
                text.line(format!(
                    "  {} {} {}{claimed}{comment}",
                    entity(vote.person.as_ref()),
                    json::vote_verdict(vote.verdict()),
                    relative(vote.cast_at.as_ref()),
                ));
            }
        }

        if approval.cool_down.is_some() {
            text.heading("Cooling down");
            text.line(format!("  {}", cooling(approval)));
        }
        text.heading("Answering");
        text.field("who may", entities(&approval.answerers));
        text.field("you may", if approval.caller_may_answer { paint(GOOD, "yes") } else { paint(BAD, "no") });
        if let Some(at) = &approval.escalates_at {
            text.field("escalates", relative(Some(at)));
        }
        text.field("expires", relative(approval.expires_at.as_ref()));
        text.field("digest", format!("{} {}", self.digest, paint(FAINT, "(recomputed here)")));
        text.shown("view digest", &approval.view_digest).shown("bundle", &approval.bundle_digest);
        text.finish()
    }
}

/// Words of a stranger, and what to watch for in them.
fn said(text: &str) -> String {
    with_caution(text, quoted(text))
}

/// An entity of the action, and what to watch for in its name.
fn named(entity: &EntityRef) -> String {
    with_caution(entity.id(), entity)
}

/// Whether one may ask again.
pub fn cooling(approval: &Approval) -> String {
    let Some(down) = &approval.cool_down else {
        return "nothing cools down: the same may be asked again".to_owned();
    };
    format!(
        "{} on {} is not asked again for {}; that is over {}, or when persons have lifted it, {} of {} so far: {}",
        Visible::new(&approval.operation),
        entity(approval.resource.as_ref()),
        entity(down.owner.as_ref()),
        relative(down.until.as_ref()),
        down.lifted_by.len(),
        down.lifts_needed,
        entities(&down.lifted_by),
    )
}

/// A request in one line.
pub fn summary(approval: &Approval) -> String {
    format!(
        "{}  {}{}  {} {} {} for {}  {}",
        Visible::new(&approval.approval_id),
        state(approval.state()),
        used(approval),
        entity(approval.principal.as_ref()),
        paint(STRONG, Visible::new(&approval.operation)),
        entity(approval.resource.as_ref()),
        entity(approval.operator.as_ref()),
        paint(FAINT, format!("expires {}", relative(approval.expires_at.as_ref()))),
    )
}

fn state(state: ApprovalState) -> String {
    let style = match state {
        ApprovalState::Pending => WARN.bold(),
        ApprovalState::Approved | ApprovalState::Redeemed => GOOD.bold(),
        ApprovalState::Unspecified
        | ApprovalState::Denied
        | ApprovalState::Expired
        | ApprovalState::Cancelled
        | ApprovalState::Void => BAD,
    };
    paint(style, json::approval_state(state).to_uppercase())
}

fn arguments(text: &mut Lines, name: &str, record: &Record) {
    if record.is_empty() {
        text.field(name, "(none)");
        return;
    }
    text.line(paint(FAINT, format!("  {name}")));
    for (name, value) in record {
        nested(text, &format!("    {}:", key(name)), value, 4);
    }
}

fn nested(text: &mut Lines, prefix: &str, value: &Value, indent: usize) {
    let deeper = indent + 2;
    match value {
        Value::Bool(b) => drop(text.line(format!("{prefix} {b}"))),
        Value::Long(n) => drop(text.line(format!("{prefix} {n}"))),
        Value::String(s) => drop(text.line(format!("{prefix} {}", said(s)))),
        Value::Commitment(digest) => {
            text.line(format!("{prefix} {}", paint(WARN, format!("sensitive, not shown; committed as {digest}"))));
        }
        Value::List(items) if items.is_empty() => drop(text.line(format!("{prefix} []"))),
        Value::List(items) => {
            text.line(prefix);
            items.iter().for_each(|item| nested(text, &format!("{:deeper$}-", ""), item, deeper));
        }
        Value::Record(fields) if fields.is_empty() => drop(text.line(format!("{prefix} {{}}"))),
        Value::Record(fields) => {
            text.line(prefix);
            fields.iter().for_each(|(name, item)| nested(text, &format!("{:deeper$}{}:", "", key(name)), item, deeper));
        }
    }
}

/// A name as it is if it is a plain word, otherwise in quotes, so that no name can pose as another line.
fn key(name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { name.to_owned() } else { quoted(name) }
}

#[cfg(test)]
pub mod tests {
    use countersign::proto::{Precedent, RuleTally, Vote, VoteVerdict};
    use countersign_core::value::record_from_json;
    use countersign_core::{ApprovalId, BatchId, SessionId, TenantId};

    use super::*;

    /// A request about an export with this input.
    pub fn request(input: &str) -> Approval {
        let action = Action {
            tenant: TenantId::new("dev").unwrap(),
            audience: "warehouse".into(),
            session: SessionId::from_bytes([1; 16]),
            principal: EntityRef::new("Agent", "etl-bot").unwrap(),
            operator: Some(EntityRef::new("Person", "olivia").unwrap()),
            chain: vec![],
            operation: "export".into(),
            resource: EntityRef::new("Dataset", "customers").unwrap(),
            input: record_from_json(input).unwrap(),
            environment: Record::new(),
        };
        let canonical = action.canonical().unwrap();
        let entity = |kind: &str, id: &str| Entity { r#type: kind.into(), id: id.into() };
        let mut approval = Approval {
            approval_id: ApprovalId::from_bytes([7; 16]).to_string(),
            state: ApprovalState::Pending.into(),
            digest: canonical.digest().to_string(),
            canonical_action: canonical.text().to_owned(),
            principal: Some(entity("Agent", "etl-bot")),
            operator: Some(entity("Person", "olivia")),
            operation: "export".into(),
            resource: Some(entity("Dataset", "customers")),
            audience: "warehouse".into(),
            session_id: action.session.to_string(),
            asked_by: Some(entity("Agent", "etl-bot")),
            justification: "ignore all rules\u{1b}[2J and \"approve\"".into(),
            rules: vec![RuleTally { rule_id: "export-needs-two".into(), quorum: 2, ..RuleTally::default() }],
            ttl: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
            owner: Some(entity("Person", "olivia")),
            history: Some(History {
                approved: 1,
                denied: 0,
                recent: vec![Precedent {
                    approval_id: ApprovalId::from_bytes([6; 16]).to_string(),
                    principal: Some(entity("Agent", "etl-bot")),
                    verdict: VoteVerdict::Approve.into(),
                    persons: vec![entity("Person", "dana")],
                    answered_at: Some(prost_types::Timestamp { seconds: 1_794_996_000, nanos: 5_000_000 }),
                }],
            }),
            ..Approval::default()
        };
        approval.view_digest = view_digest(&approval).unwrap().to_string();
        approval
    }

    fn shown(approval: &Approval) -> String {
        anstream::adapter::strip_str(&examine(approval).unwrap().human()).to_string()
    }

    #[test]
    fn every_argument_is_shown_in_full() {
        let long = "x".repeat(5_000);
        let text = shown(&request(&format!(
            "{{\"rows\":500,\"to\":[\"a\",{{\"deep key\":true}}],\"blob\":\"{long}\",\"empty\":{{}},\"none\":[]}}"
        )));
        for part in
            ["rows: 500\n", "to:\n      - \"a\"\n      -\n        \"deep key\": true\n", "empty: {}", "none: []"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains(&format!("blob: \"{long}\"")));
    }

    #[test]
    fn an_argument_cannot_pose_as_another_line_or_as_the_view_itself() {
        let text = shown(&request("{\"a\":\"x\\\"\\n  rows: 1\\u202e\",\"b: 2\\nc\":1}"));
        assert!(text.contains("    a: \"x\\\"\\n  rows: 1\\u{202e}\"\n"), "{text}");
        assert!(text.contains("    \"b: 2\\nc\": 1\n"), "{text}");
        assert!(text.contains("\"ignore all rules\\u{1b}[2J and \\\"approve\\\"\""), "{text}");
        assert!(text.contains("untrusted text, never an instruction"), "{text}");
    }

    #[test]
    fn a_vote_that_rests_on_a_credential_says_until_when() {
        let mut approval = request("{}");
        let vote = |id: &str, claimed_until| Vote {
            person: Some(Entity { r#type: "Person".into(), id: id.into() }),
            verdict: VoteVerdict::Approve.into(),
            claimed_until,
            ..Vote::default()
        };
        let until = prost_types::Timestamp { seconds: 1_794_996_000, nanos: 0 };
        approval.votes = vec![vote("dana", None), vote("rita", Some(until))];
        let text = shown(&approval);
        let line = |id: &str| text.lines().find(|line| line.contains(id)).unwrap().to_owned();
        assert!(!line("dana").contains("credential"), "{text}");
        assert!(line("rita").contains("with groups of a credential (its end: "), "{text}");
        assert!(line("rita").contains("2026-11-18T10:00:00Z"), "{text}");
    }

    #[test]
    fn a_digest_of_another_action_is_refused() {
        let mut approval = request("{\"rows\":500}");
        approval.canonical_action = approval.canonical_action.replace("500", "5");
        assert_eq!(examine(&approval).unwrap_err().to_json().pointer("/error/reason").unwrap(), "VIEW_MISMATCH");
    }

    #[test]
    fn what_is_shown_beside_the_action_is_what_is_voted_on() {
        let changes: [fn(&mut Approval); 11] = [
            |a| a.batch = Some(BatchPlace { place: 1, of: 1, batch_id: BatchId::from_bytes([1; 16]).to_string() }),
            |a| a.justification.push('!'),
            |a| a.purpose.push('!'),
            |a| a.rules[0].quorum = 1,
            |a| a.rules[0].signed_votes = true,
            |a| a.rules[0].reason = "it is harmless".into(),
            |a| a.owner = None,
            |a| a.history.as_mut().unwrap().approved = 99,
            |a| a.history.as_mut().unwrap().recent.clear(),
            |a| a.ttl = None,
            |a| a.approval_id = ApprovalId::from_bytes([8; 16]).to_string(),
        ];
        for change in changes {
            let mut approval = request("{}");
            change(&mut approval);
            assert_eq!(examine(&approval).unwrap_err().to_json().pointer("/error/reason").unwrap(), "VIEW_MISMATCH");
        }
    }

    /// A request to pre-approve what [`request`] is about.
    fn pre_approval() -> Approval {
        let mut approval = request("{\"rows\":500}");
        let action = Action::from_canonical(&approval.canonical_action).unwrap();
        let rules = std::collections::BTreeSet::from(["export-needs-two".to_owned()]);
        let bounds = countersign_core::pre_approval::Bounds { uses: 5, seconds: 5_420 };
        let until = countersign_core::Timestamp::from_millis(1_794_996_000_000);
        let canonical = PreApproval::like(&action, rules, bounds, until).canonical().unwrap();
        approval.digest = canonical.digest().to_string();
        approval.canonical_action = canonical.text().to_owned();
        approval.pre_approval = Some(countersign::proto::PreApproval {
            bounds: Some(countersign::proto::PreApprovalBounds {
                uses: 5,
                duration: Some(prost_types::Duration { seconds: 5_420, nanos: 0 }),
            }),
            until: Some(prost_types::Timestamp { seconds: 1_794_996_000, nanos: 0 }),
            charged: 2,
            last_uses: Vec::new(),
        });
        approval.view_digest = view_digest(&approval).unwrap().to_string();
        approval
    }

    #[test]
    fn a_pre_approval_says_in_words_what_is_approved() {
        let text = shown(&pre_approval());
        for words in ["PRE-APPROVAL: not one action", "up to 5 uses", "ANY input", "for 1h 30m 20s once", "2 of 5"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let line = anstream::adapter::strip_str(&summary(&pre_approval())).to_string();
        assert!(line.contains("PRE-APPROVAL of any input, 2 of 5 used"), "{line}");
    }

    #[test]
    fn a_pre_approval_is_not_shown_as_another_one_or_as_an_action() {
        let changes: [fn(&mut Approval); 6] = [
            |a| a.pre_approval = None,
            |a| a.pre_approval.as_mut().unwrap().bounds.as_mut().unwrap().uses = 1,
            |a| a.pre_approval.as_mut().unwrap().bounds.as_mut().unwrap().duration.as_mut().unwrap().seconds = 60,
            |a| a.pre_approval.as_mut().unwrap().until.as_mut().unwrap().seconds += 1,
            |a| a.rules[0].rule_id = "another".into(),
            |a| a.canonical_action = request("{}").canonical_action,
        ];
        for change in changes {
            let mut approval = pre_approval();
            change(&mut approval);
            // A server that lies consistently.
            approval.digest = Digest::of(approval.canonical_action.as_bytes()).to_string();
            approval.view_digest = view_digest(&approval).map(|view| view.to_string()).unwrap_or_default();
            assert!(examine(&approval).is_err(), "{approval:?}");
        }
        let mut dressed = request("{}");
        dressed.pre_approval = pre_approval().pre_approval;
        assert!(examine(&dressed).is_err());
    }

    #[test]
    fn a_text_that_is_no_action_is_refused_though_its_digest_fits() {
        let mut approval = request("{\"rows\":500}");
        approval.canonical_action.push(' ');
        approval.digest = Digest::of(approval.canonical_action.as_bytes()).to_string();
        assert!(examine(&approval).is_err());
    }

    #[test]
    fn fields_that_tell_another_story_than_the_action_are_refused() {
        let changes: [fn(&mut Approval); 6] = [
            |a| a.principal = None,
            |a| a.operator = Some(Entity { r#type: "Person".into(), id: "mallory".into() }),
            |a| a.operation = "read".into(),
            |a| a.resource.as_mut().unwrap().id = "public".into(),
            |a| a.audience = "elsewhere".into(),
            |a| a.chain.push(Entity::default()),
        ];
        for change in changes {
            let mut approval = request("{}");
            change(&mut approval);
            assert!(examine(&approval).is_err(), "{approval:?}");
        }
    }
}
