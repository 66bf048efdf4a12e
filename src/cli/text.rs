//! How things look to people.

use std::collections::BTreeMap;

use countersign::proto::{
    Capability, DecideResponse, Entity, MintedCapability, NeededApproval, Session, SessionState, Standing, Verdict,
};
use countersign_core::visible::Visible;

use super::json;
use super::output::{BAD, FAINT, GOOD, STRONG, WARN, paint, quoted};
use super::when::{passed, relative, words};

/// Lines of text that grow.
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    /// One line.
    pub fn line(&mut self, text: impl std::fmt::Display) -> &mut Self {
        self.0.push_str(&text.to_string());
        self.0.push('\n');
        self
    }

    /// A heading, set off from what is above.
    pub fn heading(&mut self, text: &str) -> &mut Self {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(paint(STRONG, text))
    }

    /// A name and a value that is safe to show.
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        // A long name is still set off from what it names.
        self.line(format!("  {} {value}", paint(FAINT, format!("{name:<14}"))))
    }

    /// A name and a value of the server's or a stranger's.
    pub fn shown(&mut self, name: &str, value: &str) -> &mut Self {
        self.field(name, Visible::new(value))
    }

    /// The text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// So many of something: `1 error`, `2 errors`.
pub fn count(number: impl Into<u64>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { many })
}

/// An entity as in Cedar; `-` for none.
pub fn entity(entity: Option<&Entity>) -> String {
    entity.map_or_else(|| "-".to_owned(), |Entity { r#type, id }| format!("{}::{}", Visible::new(r#type), quoted(id)))
}

/// Several entities.
pub fn entities(list: &[Entity]) -> String {
    if list.is_empty() {
        return "nobody".to_owned();
    }
    list.iter().map(|one| entity(Some(one))).collect::<Vec<_>>().join(", ")
}

/// A verdict in its colour.
pub fn verdict(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Allow => GOOD.bold(),
        Verdict::NeedsApproval => WARN.bold(),
        Verdict::Deny | Verdict::Unspecified => BAD,
    };
    paint(style, json::verdict(verdict))
}

/// An answer, and what to do with it.
pub fn decision(answer: &DecideResponse) -> String {
    let mut text = Lines::default();
    text.line(verdict(answer.verdict()));
    for reason in &answer.reasons {
        let parts = [reason.policy_id.as_str(), reason.text.as_str()].into_iter().filter(|part| !part.is_empty());
        let parts: Vec<String> = parts.map(|part| Visible::new(part).to_string()).collect();
        text.line(format!("  {}", parts.join(": ")));
    }
    if let Some(NeededApproval { rules, persons, would_expire_at }) = &answer.needed_approval {
        text.heading("Approval that it takes");
        for rule in rules {
            let people = if rule.quorum == 1 { "1 person" } else { &format!("{} persons", rule.quorum) };
            let ttl = rule.ttl.as_ref().and_then(|ttl| u64::try_from(ttl.seconds).ok()).map(words);
            let within = ttl.map(|ttl| format!(", within {ttl}")).unwrap_or_default();
            text.line(format!("  {}: {people}{within}", paint(STRONG, Visible::new(&rule.rule_id))));
            if !rule.reason.is_empty() {
                text.line(format!("    {}", Visible::new(&rule.reason)));
            }
            if rule.signed_votes {
                text.line("    counts signed approvals only");
            }
            if let Some(bounds) = &rule.pre_approval {
                text.line(format!("    may be pre-approved: up to {}", super::view::offer(bounds)));
            }
        }
        text.field("may answer", entities(persons));
        let most = rules.iter().map(|rule| rule.quorum).max().unwrap_or_default();
        if u32::try_from(persons.len()).unwrap_or(u32::MAX) < most {
            // Others may come to: by a credential that has them in a group, or when the question escalates.
            let few = format!("  too few now: it takes {most}, and the others are excluded, or in no group that may");
            text.line(paint(WARN, few));
        }
        text.field("until", relative(would_expire_at.as_ref()));
        text.line(paint(FAINT, "  deciding asks nobody; ask with `countersign approvals request`"));
    }
    if let Some(MintedCapability { token, capability_id, expires_at }) = &answer.capability {
        text.heading("Capability: a bearer secret, good once");
        text.shown("id", capability_id).field("expires", relative(expires_at.as_ref()));
        text.line(Visible::new(token));
    }
    text.line("");
    text.shown("decision", &answer.decision_id).shown("digest", &answer.digest).shown("bundle", &answer.bundle_digest);
    if let Some(index) = answer.log_index {
        text.field("log index", index);
    }
    if answer.replayed {
        text.line(paint(WARN, "  this is the stored answer to an earlier call: it authorizes nothing anew"));
    }
    text.finish()
}

/// A session.
pub fn session(session: &Session) -> String {
    let mut text = Lines::default();
    let state = match session.state() {
        SessionState::Expired if !passed(session.deadline.as_ref()) => {
            "over: its heartbeat stayed away, or that of a session above it"
        }
        state @ (SessionState::Unspecified | SessionState::Open | SessionState::Ended | SessionState::Expired) => {
            json::session_state(state)
        }
    };
    text.line(format!("{}  {state}", paint(STRONG, Visible::new(&session.session_id))));
    text.field("principal", entity(session.principal.as_ref())).field("acting for", entity(session.operator.as_ref()));
    if !session.chain.is_empty() {
        text.field("through", entities(&session.chain));
    }
    text.field("purpose", quoted(&session.purpose)).field("deadline", relative(session.deadline.as_ref()));
    if session.clean {
        text.field("clean", "labels of before do not count");
    }
    if let Some(Standing { labels, counters, unresolved }) = &session.standing {
        let labels: Vec<String> = labels.iter().map(|label| Visible::new(label).to_string()).collect();
        text.field("labels", if labels.is_empty() { "none".to_owned() } else { paint(WARN, labels.join(", ")) });
        let counters: BTreeMap<_, _> = counters.iter().collect();
        if !counters.is_empty() {
            let used: Vec<String> =
                counters.iter().map(|(name, used)| format!("{} {used}", Visible::new(name))).collect();
            text.field("used up", used.join(", "));
        }
        if *unresolved > 0 {
            text.field("not completed", unresolved);
        }
    }
    if !session.parent_session_id.is_empty() {
        text.shown("opened in", &session.parent_session_id);
    }
    if let Some(every) = session.heartbeat.and_then(|every| std::time::Duration::try_from(every).ok()) {
        let last = relative(session.last_heartbeat.as_ref());
        text.field("heartbeat", format_args!("within {every:?} of the last, which was {last}"));
    }
    text.finish()
}

/// A capability, without its token.
pub fn capability(capability: &Capability) -> String {
    let mut text = Lines::default();
    text.line(format!(
        "{}  {}",
        paint(STRONG, Visible::new(&capability.capability_id)),
        json::capability_state(capability.state())
    ));
    text.field("principal", entity(capability.principal.as_ref()));
    text.shown("operation", &capability.operation).field("resource", entity(capability.resource.as_ref()));
    text.shown("audience", &capability.audience).shown("session", &capability.session_id);
    text.shown("decision", &capability.decision_id);
    if !capability.approval_id.is_empty() {
        text.shown("approval", &capability.approval_id);
    }
    if let Some(holder) = capability.holder.as_ref().and_then(super::holder::shown) {
        let word = |name: &str| holder.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        text.shown("bound to", &format!("{} {}", word("kind"), word("thumbprint")));
    }
    if capability.open {
        text.field("open", "its holder may narrow it");
    }
    if !capability.parent_capability_id.is_empty() {
        text.shown("given for", &capability.parent_capability_id);
    }
    if !capability.delegated_to.is_empty() {
        text.shown("exchanged for", &capability.delegated_to);
    }
    text.shown("digest", &capability.digest).field("expires", relative(capability.expires_at.as_ref()));
    if let Some(resolution) = &capability.resolution {
        text.field("found", super::outcomes::word(resolution.finding()).replace('_', " "));
        text.field("by", entity(resolution.resolved_by.as_ref())).field("note", quoted(&resolution.note));
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use countersign::proto::{PreApprovalBounds, Reason};

    use super::*;

    #[test]
    fn nothing_of_a_stranger_acts_on_the_terminal() {
        let hostile = "x\u{1b}[2J\u{202e}\n";
        let session = Session {
            session_id: hostile.into(),
            purpose: hostile.into(),
            principal: Some(Entity { r#type: "Agent".into(), id: hostile.into() }),
            ..Session::default()
        };
        let answer = DecideResponse {
            reasons: vec![Reason { policy_id: hostile.into(), text: hostile.into() }],
            ..DecideResponse::default()
        };
        let capability = Capability { operation: hostile.into(), ..Capability::default() };
        for text in [super::session(&session), decision(&answer), super::capability(&capability)] {
            let text = anstream::adapter::strip_str(&text).to_string();
            assert!(text.contains("\\u{1b}[2J") && !text.contains(['\u{1b}', '\u{202e}']), "{text}");
        }
    }

    #[test]
    fn a_held_action_tells_who_may_answer() {
        let answer = DecideResponse {
            verdict: Verdict::NeedsApproval.into(),
            needed_approval: Some(NeededApproval {
                rules: vec![countersign::proto::AskingRule {
                    rule_id: "export-needs-two".into(),
                    quorum: 2,
                    reason: "leaves the boundary".into(),
                    ttl: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
                    cool_down: None,
                    pre_approval: Some(PreApprovalBounds {
                        uses: 10,
                        duration: Some(prost_types::Duration { seconds: 7_200, nanos: 0 }),
                    }),
                    signed_votes: true,
                }],
                persons: vec![Entity { r#type: "Person".into(), id: "dana".into() }],
                would_expire_at: None,
            }),
            ..DecideResponse::default()
        };
        let text = anstream::adapter::strip_str(&decision(&answer)).to_string();
        assert!(text.contains("export-needs-two: 2 persons, within 15m 0s\n    leaves the boundary"), "{text}");
        assert!(text.contains("may be pre-approved: up to 10 uses within 2h\n"), "{text}");
        assert!(text.contains("may answer     Person::\"dana\"\n  too few now: it takes 2,"), "{text}");
    }
}
