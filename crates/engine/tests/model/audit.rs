//! What must hold of the log and the rows alone, whatever the model thinks: these checks know the invariants, and nothing
//! of how a sequence came about. The races use them too, where there is no model.

use std::collections::{BTreeMap, BTreeSet};

use countersign_audit::{Hash, LogVerifier};
use countersign_core::{Digest, EntityRef};
use countersign_store::Kernel;
use countersign_store::repository::Repository;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::backend::acme;
use crate::driver::{Checked, ensure, named};
use crate::reference::{GLASS_MILLIS, GLASS_TIMES, Model};
use crate::service::Names;
use crate::world::{Deed, PERSONS, Party, Rule, Stance, Variant};

/// The log as an auditor has it: every record, and the tree over them.
#[derive(Debug, Default)]
pub struct Log {
    pub records: Vec<Json>,
    /// How many were compared with the model.
    pub compared: usize,
    verifier: LogVerifier,
}

#[derive(Debug, Deserialize)]
pub struct Found {
    pub kind: String,
    #[serde(default, deserialize_with = "entity_of_caller")]
    pub caller: Option<EntityRef>,
    pub at: i64,
}

fn entity_of_caller<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<EntityRef>, D::Error> {
    #[derive(Deserialize)]
    struct Caller {
        entity: EntityRef,
    }
    Ok(Option::<Caller>::deserialize(deserializer)?.map(|caller| caller.entity))
}

impl Log {
    /// Reads what was appended.
    pub async fn follow<K: Kernel>(&mut self, kernel: &K) -> Checked<()> {
        let size = kernel.log_size(&acme()).await.map_err(|e| e.to_string())?;
        while self.verifier.size() < size {
            let page = kernel.log_entries(&acme(), self.verifier.size(), 512).await.map_err(|e| e.to_string())?;
            ensure!(!page.is_empty(), "the log has {size} records, and shows {}", self.verifier.size());
            for (index, bytes) in page {
                self.verifier.push_at(index, &bytes).map_err(|e| e.to_string())?;
                self.records.push(serde_json::from_slice(&bytes).map_err(|e| format!("record {index}: {e}"))?);
            }
        }
        ensure!(size == self.verifier.size(), "the log has {size} records, and had {}", self.verifier.size());
        Ok(())
    }

    pub fn root(&self) -> Hash {
        self.verifier.frontier().root()
    }

    pub fn recorded(&self, index: usize) -> Checked<Found> {
        Found::deserialize(&self.records[index]).map_err(|e| format!("record {index}: {e}"))
    }

    /// Checks everything that the records alone must show. `ordered`: calls came one after the other, so times do not go
    /// back (I13).
    pub fn audit(&self, ordered: bool) -> Checked<()> {
        let mut seen = Seen::default();
        let mut last = i64::MIN;
        for (index, record) in self.records.iter().enumerate() {
            let at = record["at"].as_i64().unwrap_or(i64::MIN);
            ensure!(!ordered || at >= last, "record {index} is older than the one before (I13)");
            last = at;
            seen.record(record).map_err(|why| format!("record {index}: {why}: {record}"))?;
        }
        Ok(())
    }
}

/// A question, as the records tell of it.
#[derive(Debug, Default)]
struct Asked {
    digest: String,
    excluded: BTreeSet<String>,
    /// Who approves, for which rules they were eligible, and until when their credentials had them among the editors.
    votes: BTreeMap<String, (BTreeSet<String>, Option<i64>)>,
    ended: bool,
    /// What was asked about, if it was a pre-approval, and how many uses are charged.
    pre: Option<Json>,
    charged: u64,
}

/// Whether a pre-approval, by its canonical text, is one of this action.
fn covers(pre: &Json, action: &Json) -> bool {
    let same = |field| pre[field] == action[field];
    ["tenant", "audience", "session", "principal", "operator", "chain", "operation", "resource"].into_iter().all(same)
}

#[derive(Debug, Default)]
struct Minted {
    digest: String,
    approval: Option<String>,
    /// The review, and the rules that were lifted, if the glass was broken for it.
    glass: Option<(String, BTreeSet<String>)>,
    redeemed: bool,
    over: bool,
    /// What it was exchanged for, and whether it was exchanged itself.
    parent: Option<String>,
    delegated: bool,
}

/// The review of broken glass.
#[derive(Debug, Default)]
struct Reviewed {
    person: String,
    excluded: BTreeSet<String>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    bundle: Option<String>,
    ended: BTreeSet<String>,
    /// The session that each was opened in.
    parents: BTreeMap<String, String>,
    /// Every session that was opened: its id, principal and operator.
    opened: Vec<(String, Json, Json)>,
    asked: BTreeMap<String, Asked>,
    minted: BTreeMap<String, Minted>,
    reviews: BTreeMap<String, Reviewed>,
    /// When each person broke the glass.
    broken: BTreeMap<String, Vec<i64>>,
}

fn text<'a>(json: &'a Json, field: &str) -> Checked<&'a str> {
    json[field].as_str().ok_or_else(|| format!("there is no `{field}`"))
}

fn texts(json: &Json) -> BTreeSet<String> {
    json.as_array()
        .into_iter()
        .flatten()
        .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
        .collect()
}

impl Seen {
    fn record(&mut self, record: &Json) -> Checked<()> {
        match text(record, "kind")? {
            "bundle_activated" => self.bundle = Some(text(record, "bundle")?.to_owned()),
            "session_opened" => {
                let session = &record["session"];
                if let Some(parent) = session["parent"].as_str() {
                    self.parents.insert(text(session, "id")?.to_owned(), parent.to_owned());
                }
                let opened = (session["principal"].clone(), session["operator"].clone());
                self.opened.push((text(session, "id")?.to_owned(), opened.0, opened.1));
            }
            // What was opened before is over with it (I6); what is opened after is not.
            "revocation" => {
                let (axis, of) = (text(record, "axis")?, &record["of"]);
                let concerns = |opened: &&(String, Json, Json)| match axis {
                    "principal" => opened.1 == *of,
                    "operator" => opened.2 == *of,
                    _ => axis == "everything",
                };
                self.ended.extend(self.opened.iter().filter(concerns).map(|opened| opened.0.clone()));
            }
            "session_ended" => {
                ensure!(self.ended.insert(text(record, "session")?.to_owned()), "a session ended twice (I5)");
            }
            "decision" => self.decision(record)?,
            "approval_requested" => {
                shows_its_digest(record)?;
                if let Some(replaced) = record["replaces"].as_str() {
                    self.asked.get_mut(replaced).ok_or("replaces what was not asked")?.ended = true;
                }
                let asked = self.asked.entry(text(record, "approval")?.to_owned()).or_default();
                asked.digest = text(record, "digest")?.to_owned();
                asked.excluded.extend(texts(&record["excluded"]));
                if record["pre_approval"].is_object() {
                    let shown: Json = serde_json::from_str(text(record, "action")?).map_err(|e| e.to_string())?;
                    ensure!(shown["uses"] == record["pre_approval"]["uses"], "other bounds than were shown (I3)");
                    asked.pre = Some(shown);
                }
            }
            "approval_excluded" => {
                let asked = self.asked.get_mut(text(record, "approval")?).ok_or("excludes from what was not asked")?;
                ensure!(!asked.ended, "excluded after the end (I5)");
                asked.excluded.extend(texts(&record["excluded"]));
            }
            "vote" => self.vote(record)?,
            "vote_withdrawn" => {
                let asked = self.asked.get_mut(text(record, "approval")?).ok_or("a vote on what was not asked")?;
                ensure!(!asked.ended, "a vote taken back after the end (I5)");
                asked.votes.remove(&record["person"].to_string());
                asked.ended = text(record, "state")? == "void";
            }
            "approval_cancelled" | "approval_void" => {
                let asked = self.asked.get_mut(text(record, "approval")?).ok_or("ends what was not asked")?;
                ensure!(!asked.ended, "cancelled or void after the end (I5)");
                asked.ended = true;
            }
            "review_closed" => self.reviewed(record)?,
            "redeem" => self.redeem(record)?,
            "delegated" => self.delegated(record)?,
            "complete" | "revoke" => {
                let minted = self.minted.get_mut(text(record, "capability")?).ok_or("not minted")?;
                ensure!(!minted.over, "a capability is over twice (I5)");
                let complete = text(record, "kind")? == "complete";
                ensure!(minted.redeemed == complete, "completed unredeemed, or revoked when redeemed (I5)");
                minted.over = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a session, or one above it, was ended.
    fn has_ended(&self, session: &str) -> bool {
        self.ended.contains(session) || self.parents.get(session).is_some_and(|parent| self.has_ended(parent))
    }

    /// Whether all that a capability came from was handed on, and neither redeemed nor revoked (I1, I6).
    fn lives(&self, capability: &str) -> bool {
        let parent = self.minted.get(capability).and_then(|minted| minted.parent.as_ref());
        parent.is_none_or(|parent| {
            let given = self.minted.get(parent);
            given.is_some_and(|given| given.delegated && !given.redeemed && !given.over) && self.lives(parent)
        })
    }

    fn delegated(&mut self, record: &Json) -> Checked<()> {
        shows_its_digest(record)?;
        let variant = self.decides_now(record)?;
        ensure!(!self.has_ended(text(record, "session")?), "handed on after its session (I6)");
        ensure!(self.lives(text(record, "capability")?), "handed on though what it came from is over (I6)");
        let given = self.minted.get_mut(text(record, "capability")?).ok_or("handed on what was never minted")?;
        ensure!(!given.redeemed && !given.over && !given.delegated, "handed on what was spent (I1)");
        ensure!(given.digest == text(record, "digest")?, "handed on for another digest (I3)");
        given.delegated = true;
        let (digest, approval) = (given.digest.clone(), given.approval.clone());
        let action: Json = serde_json::from_str(text(record, "action")?).map_err(|e| e.to_string())?;
        let asks = asks(variant, &action)?;
        if !asks.is_empty() {
            self.enough(approval.as_deref(), (&digest, &action), &asks, (variant, record["at"].as_i64().unwrap()))?;
        }
        self.spend(approval.as_deref(), record)
    }

    fn decides_now(&self, record: &Json) -> Checked<Variant> {
        let bundle = text(record, "bundle")?;
        ensure!(self.bundle.as_deref() == Some(bundle), "decided by a bundle that is not active (I10)");
        named(bundle).ok_or_else(|| "an unknown bundle".to_owned())
    }

    fn decision(&mut self, record: &Json) -> Checked<()> {
        shows_its_digest(record)?;
        if text(record, "verdict")? != "ALLOW" {
            return Ok(());
        }
        let variant = self.decides_now(record)?;
        let action: Json = serde_json::from_str(text(record, "action")?).map_err(|e| e.to_string())?;
        ensure!(!self.has_ended(text(&action, "session")?), "allowed in a session that is over (I6)");
        let digest = text(record, "digest")?.to_owned();
        let approval = record["approval"].as_str().map(str::to_owned);
        let asks = asks(variant, &action)?;
        let glass = self.broken(record, &action, &asks, variant)?;
        // What needs approval is allowed with votes, or with recorded break-glass (I2).
        let asks = if glass.is_some() { Vec::new() } else { asks };
        if let Some(minted) = record["minted"].as_object() {
            ensure!(minted["digest"] == digest.as_str(), "minted for another digest (I3)");
            let id = minted["id"].as_str().unwrap_or_default().to_owned();
            if !asks.is_empty() {
                self.enough(approval.as_deref(), (&digest, &action), &asks, (variant, record["at"].as_i64().unwrap()))?;
            }
            ensure!(
                minted.get("review").and_then(Json::as_str) == glass.as_ref().map(|(review, _)| &**review),
                "minted otherwise"
            );
            let parent = minted.get("parent").and_then(Json::as_str).map(str::to_owned);
            let minted = Minted { digest, approval, glass, parent, ..Minted::default() };
            ensure!(self.minted.insert(id, minted).is_none(), "one token id was minted twice (I1)");
        } else {
            if !asks.is_empty() {
                self.enough(approval.as_deref(), (&digest, &action), &asks, (variant, record["at"].as_i64().unwrap()))?;
            }
            self.spend(approval.as_deref(), record)?;
        }
        Ok(())
    }

    fn vote(&mut self, record: &Json) -> Checked<()> {
        let asked = self.asked.get_mut(text(record, "approval")?).ok_or("a vote on what was not asked")?;
        ensure!(!asked.ended, "a vote after the end (I5)");
        ensure!(asked.digest == text(record, "digest")?, "a vote on another digest (I3)");
        let person = record["person"].to_string();
        ensure!(!asked.excluded.contains(&person), "an excluded person voted (I2)");
        if text(record, "verdict")? == "approve" {
            let until = record["caller"]["claimed"]["until"].as_i64();
            asked.votes.insert(person, (texts(&record["rules"]), until));
        } else {
            asked.votes.remove(&person);
            asked.ended = true;
        }
        Ok(())
    }

    fn redeem(&mut self, record: &Json) -> Checked<()> {
        shows_its_digest(record)?;
        let variant = self.decides_now(record)?;
        let session_ended = self.has_ended(text(record, "session")?);
        let lives = self.lives(text(record, "capability")?);
        let minted = self.minted.get_mut(text(record, "capability")?).ok_or("redeemed what was never minted")?;
        ensure!(!minted.redeemed, "redeemed twice (I1)");
        ensure!(!minted.over, "redeemed after it was over (I6)");
        ensure!(!session_ended, "redeemed after its session (I6)");
        ensure!(lives, "redeemed though what it was exchanged for is over (I6)");
        let digest = text(record, "digest")?.to_owned();
        ensure!(minted.digest == digest, "redeemed for another digest (I3)");
        minted.redeemed = true;
        let (approval, glass) = (minted.approval.clone(), minted.glass.clone());
        ensure!(approval.as_deref() == record["approval"].as_str(), "redeemed with another approval");
        let review = glass.as_ref().map(|(review, _)| &**review);
        ensure!(review == record["review"].as_str(), "redeemed with another review");
        let action: Json = serde_json::from_str(text(record, "action")?).map_err(|e| e.to_string())?;
        let asks = asks(variant, &action)?;
        if let Some((review, lifted)) = glass {
            let asked: BTreeSet<String> = asks.iter().map(|rule| rule.id().to_owned()).collect();
            ensure!(asked.is_subset(&lifted), "redeemed though a rule asks that was not lifted (I2)");
            let broken = rules(&lifted)?;
            ensure!(
                PERSONS
                    .into_iter()
                    .any(|party| party.entity_text() == self.reviews[&review].person
                        && variant.breaks_glass(party, &broken)),
                "redeemed though the policies permit no broken glass any more (I2)"
            );
        } else if !asks.is_empty() {
            self.enough(approval.as_deref(), (&digest, &action), &asks, (variant, record["at"].as_i64().unwrap()))?;
            for rule in asks {
                let told = record["tally"].as_array().into_iter().flatten().find(|tally| tally["rule"] == rule.id());
                let told = told.ok_or_else(|| format!("the tally of {} is missing", rule.id()))?;
                let (persons, quorum) = (texts(&told["persons"]), variant.quorum(rule).unwrap());
                ensure!(persons.len() >= usize::try_from(quorum).unwrap(), "{} was not met (I2)", rule.id());
            }
        }
        self.spend(approval.as_deref(), record)
    }

    /// Whether the glass was broken for a decision, and rightly: by the caller itself, for exactly what asks, permitted, seldom
    /// enough, and not while a review is open. Answers the review and the rules that were lifted.
    fn broken(
        &mut self,
        record: &Json,
        action: &Json,
        asks: &[Rule],
        variant: Variant,
    ) -> Checked<Option<(String, BTreeSet<String>)>> {
        let glass = &record["glass_broken"];
        if glass.is_null() {
            return Ok(None);
        }
        let person = glass["person"].to_string();
        ensure!(glass["person"] == record["caller"]["entity"], "somebody else broke the glass");
        ensure!(record["caller"]["operator"].is_null() && action["operator"].is_null(), "glass broken for somebody");
        let lifted = texts(&glass["rules"]);
        let asked: BTreeSet<String> = asks.iter().map(|rule| rule.id().to_owned()).collect();
        ensure!(!lifted.is_empty() && lifted == asked, "{lifted:?} were lifted, and {asked:?} ask");
        let broken = rules(&lifted)?;
        let may = |party: Party| party.entity_text() == person && variant.breaks_glass(party, &broken);
        ensure!(PERSONS.into_iter().any(may), "nobody permits {person} to break the glass");
        let open = self.reviews.values().any(|review| review.person == person && !review.closed);
        ensure!(!open, "the glass was broken while a review is open");
        let (at, times) = (record["at"].as_i64().unwrap_or(i64::MIN), self.broken.entry(person.clone()).or_default());
        ensure!(times.iter().filter(|time| at < **time + GLASS_MILLIS).count() < GLASS_TIMES, "broken too often");
        times.push(at);
        let review = text(glass, "review")?.to_owned();
        let excluded = texts(&record["context"]["excluded"]);
        let opened = Reviewed { person, excluded, closed: false };
        ensure!(self.reviews.insert(review.clone(), opened).is_none(), "a review was opened twice");
        Ok(Some((review, lifted)))
    }

    fn reviewed(&mut self, record: &Json) -> Checked<()> {
        let review = self.reviews.get_mut(text(record, "review")?).ok_or("closes what was not opened")?;
        ensure!(!review.closed, "a review was closed twice (I5)");
        let by = record["caller"]["entity"].to_string();
        ensure!(by != review.person && !review.excluded.contains(&by), "{by} reviewed what is theirs");
        review.closed = true;
        Ok(())
    }

    /// An approval is good for one thing, a pre-approval for as many as were voted on (I1), and for nothing once it is over (I5).
    fn spend(&mut self, approval: Option<&str>, record: &Json) -> Checked<()> {
        let Some(approval) = approval else { return Ok(()) };
        let asked = self.asked.get_mut(approval).ok_or("spent what was not asked")?;
        ensure!(!asked.ended, "an approval was spent after its end, or twice (I1)");
        asked.charged += 1;
        let uses = asked.pre.as_ref().map(|pre| pre["uses"].as_u64().unwrap_or_default());
        let told = record["pre_approval"]["use"].as_u64();
        ensure!(told == uses.map(|_| asked.charged), "use {told:?} is told, and {} are charged (I1)", asked.charged);
        ensure!(asked.charged <= uses.unwrap_or(1), "more is charged than was approved (I1)");
        asked.ended = asked.charged == uses.unwrap_or(1);
        Ok(())
    }

    /// Whether enough distinct, eligible persons stand behind an approval, none of them excluded when asked (I2).
    fn enough(
        &self,
        approval: Option<&str>,
        (digest, action): (&str, &Json),
        asks: &[Rule],
        (variant, at): (Variant, i64),
    ) -> Checked<()> {
        let approval = approval.ok_or("allowed without the approval that it needs (I2)")?;
        let asked = self.asked.get(approval).ok_or("an approval that nobody asked for")?;
        ensure!(!asked.ended, "allowed by an approval that is over (I5)");
        match &asked.pre {
            Some(pre) => {
                ensure!(covers(pre, action), "pre-approved for something else (I2)");
                let rules = texts(&pre["rules"]);
                let lifted = |rule: &Rule| rules.contains(rule.id()) && variant.offers(*rule).is_some();
                ensure!(asks.iter().all(lifted), "a rule was lifted that nobody was asked about (I2)");
            }
            None => ensure!(asked.digest == digest, "approved for another digest (I3)"),
        }
        for rule in asks {
            let counts = |(person, (rules, until)): &(&String, &(BTreeSet<String>, Option<i64>))| {
                let entity: Option<EntityRef> = serde_json::from_str(person).ok();
                let found = PERSONS.into_iter().find(|party| Some(party.entity()) == entity);
                rules.contains(rule.id())
                    && !asked.excluded.contains(*person)
                    && found
                        .is_some_and(|party| variant.answers_as(*rule, party, until.is_some_and(|until| at < until)))
            };
            let persons = asked.votes.iter().filter(counts).count();
            let quorum = usize::try_from(variant.quorum(*rule).unwrap()).unwrap();
            ensure!(persons >= quorum, "{persons} of {quorum} for {} (I2)", rule.id());
        }
        Ok(())
    }
}

/// What was shown is what its digest is of (I3).
fn shows_its_digest(record: &Json) -> Checked<()> {
    let digest = Digest::of(text(record, "action")?.as_bytes()).to_string();
    ensure!(digest == text(record, "digest")?, "the digest is not that of the action (I3)");
    Ok(())
}

/// The rules that ask about an action under a bundle; an action that may never happen is wrong here.
fn asks(variant: Variant, action: &Json) -> Checked<Vec<Rule>> {
    let deed = match text(action, "operation")? {
        "read" => Deed::Read,
        "write" => Deed::Write,
        "wipe" => Deed::Wipe,
        other => return Err(format!("`{other}` was allowed")),
    };
    match variant.stance(deed) {
        Stance::Free => Ok(Vec::new()),
        Stance::Asks(rules) => Ok(rules),
        Stance::Never => Err("what is forbidden for good was allowed (I2)".to_owned()),
    }
}

/// The rules of these ids.
fn rules(ids: &BTreeSet<String>) -> Checked<BTreeSet<Rule>> {
    let known = [Rule::WipeSec, Rule::WipeTwo, Rule::WriteAsks];
    let found: BTreeSet<Rule> = known.into_iter().filter(|rule| ids.contains(rule.id())).collect();
    ensure!(found.len() == ids.len(), "unknown rules among {ids:?}");
    Ok(found)
}

/// Compares every row with the model, and returns what state each is in and whether that is the end of it.
pub async fn rows<K: Kernel>(
    repo: &Repository<K>,
    names: &Names,
    model: &Model,
) -> Checked<BTreeMap<String, (String, bool)>> {
    let now = countersign_core::Timestamp::from_millis(model.now);
    // What is cut off by a wider axis does not stand in its own row.
    let revocations = repo.revocations().await.map_err(|e| e.to_string())?;
    let lost = |what: &str, number: usize| format!("{what} {number} was acknowledged and is gone (I8)");
    let mut found = BTreeMap::new();
    for (number, (session, id)) in model.sessions.iter().zip(&names.sessions).enumerate() {
        let mut row =
            repo.session(id.unwrap()).await.map_err(|e| e.to_string())?.ok_or_else(|| lost("session", number))?.value;
        revocations.cut_session(&mut row);
        ensure!(
            row.parent == session.parent.and_then(|parent| names.sessions[parent]),
            "session {number} is elsewhere"
        );
        if let Some(parent) = row.parent {
            // No deeper in this world.
            let above = repo.session(parent).await.map_err(|e| e.to_string())?.ok_or_else(|| lost("parent", number))?;
            let mut above = above.value;
            revocations.cut_session(&mut above);
            row = row.under(&above);
        }
        let open = row.require_open(now).is_ok();
        ensure!(open == model.session_open(number), "session {number} is open: {open}");
        ensure!(row.principal == session.principal.entity(), "session {number} is of {}", row.principal);
        ensure!(row.operator == session.operator.map(|o| o.entity()), "session {number} is for {:?}", row.operator);
        ensure!(
            row.ended().map(|ended| ended.at.millis()) == session.ended,
            "session {number}: ended is {:?}",
            row.ended()
        );
        found.insert(row.id.to_string(), (format!("{:?}", row.state(now)), !open));
    }
    for (number, (question, asked)) in model.questions.iter().zip(&names.questions).enumerate() {
        let id = asked.unwrap().id;
        let row = repo.approval(id).await.map_err(|e| e.to_string())?.ok_or_else(|| lost("question", number))?.value;
        let state = row.state(now);
        ensure!(state.word() == question.state(model.now), "question {number} is {}, not {question:?}", state.word());
        ensure!(row.expires_at().millis() == question.expires, "question {number} expires at {:?}", row.expires_at());
        ensure!(Some(row.view) == asked.map(|a| a.view), "question {number} shows something else");
        let charged = row.pre_approval().map(|pre| (pre.bounds().uses, pre.charged()));
        ensure!(
            charged == question.pre.map(|pre| (pre.bounds.uses, pre.charged)),
            "question {number}: {charged:?} used"
        );
        let votes: Vec<_> = row.votes().iter().map(|vote| vote.person.clone()).collect();
        let expected: Vec<_> = question.votes.iter().map(|vote| vote.person.entity()).collect();
        ensure!(votes == expected, "question {number} has the votes of {votes:?}, not {expected:?}");
        let excluded: BTreeSet<_> = question.excluded.iter().map(|party| party.entity()).collect();
        ensure!(row.excluded == excluded, "question {number} excludes {:?}, not {excluded:?}", row.excluded);
        found.insert(row.id.to_string(), (state.word().to_owned(), state.is_terminal()));
    }
    for (number, (capability, minted)) in model.capabilities.iter().zip(&names.capabilities).enumerate() {
        let id = minted.as_ref().unwrap().id;
        let row = repo.capability(id).await.map_err(|e| e.to_string())?;
        let mut row = row.ok_or_else(|| lost("capability", number))?.value;
        revocations.cut_capability(&mut row);
        let state = row.state(now).word();
        ensure!(state == capability.state(model.now), "capability {number} is {state}, not {capability:?}");
        ensure!(row.grant.expires_at.millis() == capability.expires, "capability {number} expires otherwise");
        // What was handed on may still be revoked, and nothing else.
        found.insert(id.to_string(), (state.to_owned(), !matches!(state, "minted" | "delegated")));
    }
    for (number, (review, id)) in model.reviews.iter().zip(&names.reviews).enumerate() {
        let row =
            repo.review(id.unwrap()).await.map_err(|e| e.to_string())?.ok_or_else(|| lost("review", number))?.value;
        let state = if review.closed { "closed" } else { "open" };
        ensure!(row.word() == state, "review {number} is {}, not {review:?}", row.word());
        let entities = |parties: &BTreeSet<Party>| parties.iter().map(|party| party.entity()).collect::<BTreeSet<_>>();
        ensure!(row.passed_over == entities(&review.passed_over), "review {number}: passed over {:?}", row.passed_over);
        ensure!(row.excluded == entities(&review.excluded), "review {number} excludes {:?}", row.excluded);
        found.insert(row.id.to_string(), (state.to_owned(), review.closed));
    }
    Ok(found)
}
