//! Figures of how asking goes, for each rule that asks and each person who is asked.
//!
//! They are counted from the log, and not by the use cases: rows that every question and every vote wrote would have all askers
//! and voters of a rule wait for each other. A row says how far the log is counted, and moves in the commit that holds what was
//! counted, so each record counts once, whoever counts and whatever breaks off. Whoever reads counts the rest first.

use std::collections::BTreeMap;

use countersign_core::approval::{AskingRule, Verdict};
use countersign_core::figures::{Figures, Happened, Subject};
use countersign_core::{ApprovalId, EntityRef, Timestamp};
use countersign_policy::AdminAction;
use countersign_store::asked::FiguresHead;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Commit, CommitError, Kernel, Revision};
use serde::Deserialize;

use crate::engine::{Call, Engine, Scene, tenant_entity};
use crate::error::Error;
use crate::read::Paged;

/// So many figures change in one commit.
const ROWS: usize = 32;
/// So many records are looked at for one commit.
const RECORDS: usize = 1_024;

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
}

/// What the record of a question tells.
#[derive(Deserialize)]
struct Requested {
    at: Timestamp,
    approval: ApprovalId,
    rules: Vec<AskingRule>,
    #[serde(default)]
    asked: Option<Vec<EntityRef>>,
    #[serde(default)]
    joined: bool,
}

/// What the record of a vote tells.
#[derive(Deserialize)]
struct Voted {
    at: Timestamp,
    approval: ApprovalId,
    person: EntityRef,
    verdict: Verdict,
    rules: Vec<String>,
    state: String,
    #[serde(default)]
    seen_at: Option<Timestamp>,
}

/// Figures that change, each as it was read.
type Changing = BTreeMap<Subject, (Option<Revision>, Figures)>;

impl<K: Kernel> Engine<K> {
    /// Counts what the log holds and nobody has counted yet. Whatever breaks it off, the next one goes on from there.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Internal`] for a record that cannot be read.
    pub async fn count_figures(&self) -> Result<(), Error> {
        let size = self.repo.kernel().log_size(self.tenant()).await?;
        loop {
            let stored = self.repo.figures_head().await?;
            let read = stored.as_ref().map(|head| head.revision);
            let head = stored.map(|head| head.value).unwrap_or_default();
            if head.next >= size {
                return Ok(());
            }
            let (changing, head) = self.count_some(head).await?;
            let commit = changing
                .into_values()
                .fold(Commit::new(self.tenant().clone()), |commit, (read, figures)| commit.upsert(&figures, read));
            match self.repo.kernel().commit(commit.upsert(&head, read)).await {
                // Another counted the same.
                Ok(_) | Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Counts as much as fits into a commit.
    async fn count_some(&self, from: FiguresHead) -> Result<(Changing, FiguresHead), Error> {
        let mut changing = Changing::new();
        let mut head = from;
        for (index, record) in self.repo.kernel().log_entries(self.tenant(), from.next, RECORDS).await? {
            let counts = self.counts(index, &record).await?;
            let done = if index == from.next { from.counted } else { 0 };
            for (number, (subject, happened)) in (0_u32..).zip(counts).skip_while(|(number, _)| *number < done) {
                if !changing.contains_key(&subject) {
                    if changing.len() >= ROWS {
                        return Ok((changing, FiguresHead { next: index, counted: number }));
                    }
                    let stored = self.repo.figures(&subject).await?;
                    let read = stored.as_ref().map(|stored| stored.revision);
                    let figures = stored.map_or_else(|| Figures::new(subject.clone()), |Stored { value, .. }| value);
                    changing.insert(subject.clone(), (read, figures));
                }
                if let Some((_, figures)) = changing.get_mut(&subject) {
                    figures.count(happened);
                }
            }
            head = FiguresHead { next: index.saturating_add(1), counted: 0 };
        }
        Ok((changing, head))
    }

    /// What a record counts for, always in the same order.
    async fn counts(&self, index: u64, record: &[u8]) -> Result<Vec<(Subject, Happened)>, Error> {
        let unread = |error: serde_json::Error| Error::Internal(format!("record {index}: {error}"));
        let Kind { kind } = serde_json::from_slice(record).map_err(unread)?;
        match &*kind {
            "approval_requested" => self.asked(serde_json::from_slice(record).map_err(unread)?).await,
            "vote" => self.voted(serde_json::from_slice(record).map_err(unread)?).await,
            _another => Ok(Vec::new()),
        }
    }

    async fn asked(&self, requested: Requested) -> Result<Vec<(Subject, Happened)>, Error> {
        let Requested { at, approval, rules, asked, joined } = requested;
        // Earlier releases did not say whether somebody joined a question, nor who was asked.
        let fresh = match &asked {
            Some(_) => true,
            None if joined => false,
            None => self.repo.approval(approval).await?.is_some_and(|approval| approval.value.created_at == at),
        };
        if !fresh {
            return Ok(Vec::new());
        }
        let rules = rules.into_iter().map(|rule| Subject::Rule(rule.id));
        let persons = asked.into_iter().flatten().map(Subject::Person);
        Ok(rules.chain(persons).map(|subject| (subject, Happened::Asked)).collect())
    }

    async fn voted(&self, voted: Voted) -> Result<Vec<(Subject, Happened)>, Error> {
        let Voted { at, approval, person, verdict, rules, state, seen_at } = voted;
        let approval = self.repo.approval(approval).await?.map(|approval| approval.value);
        let waited = approval.as_ref().map(|approval| at.since(approval.created_at));
        let looked = seen_at.map(|seen_at| at.since(seen_at));
        let voted = Happened::Voted { verdict, waited, looked };
        let mut counts: Vec<_> = rules.into_iter().map(|rule| (Subject::Rule(rule), voted)).collect();
        counts.push((Subject::Person(person.clone()), voted));
        counts.push((Subject::Person(person), Happened::Answered(verdict)));
        // A deny ends a request, also one that was approved.
        if state == "approved" || verdict == Verdict::Deny {
            let asked = approval.into_iter().flat_map(|approval| approval.rules);
            counts.extend(asked.map(|rule| (Subject::Rule(rule.id), Happened::Answered(verdict))));
        }
        Ok(counts)
    }

    /// Figures as of now, in the order of what they are about, from the first after `after`: all of them for whoever may read
    /// every request, and for everybody else their own.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`] for whoever is no person and may not read all; [`Error::Store`].
    pub async fn figures(
        &self,
        call: &Call,
        after: Option<&Subject>,
        limit: usize,
    ) -> Result<Paged<Figures, Subject>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let tenant = tenant_entity(self.tenant())?;
            let read = AdminAction::ReadApprovals { tenant: &tenant };
            let own = match (self.may_read(scene, read), scene.caller.as_person()) {
                (true, _) => None,
                (false, Some(person)) => Some(Subject::Person(person.clone())),
                (false, None) => {
                    let caller = scene.caller.entity.to_string();
                    return Err(Error::AdministrationDenied { caller, action: "readApprovals" });
                }
            };
            self.count_figures().await?;
            if let Some(own) = own {
                let items = self.repo.figures(&own).await?.map(|stored| stored.value).into_iter().collect();
                return Ok(Paged { items, next: None });
            }
            let page = self.repo.all_figures(false, after, limit).await?;
            let items: Vec<Figures> = page.values.into_iter().map(|stored| stored.value).collect();
            let next = page.next.and(items.last()).map(|last| last.subject.clone());
            Ok(Paged { items, next })
        };
        self.settle(call, None, attempt).await
    }

    /// The figures of the rules, as far as they are counted, for metrics: at most as many as one page has.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn figures_of_rules(&self) -> Result<Vec<Figures>, Error> {
        let page = self.repo.all_figures(true, None, RECORDS).await?;
        Ok(page.values.into_iter().map(|stored| stored.value).collect())
    }
}
