//! Publishing as an action that the active bundle decides.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::approval::ApprovalState;
use countersign_core::{ApprovalId, EntityRef, Record, SessionId, Timestamp, Value};
use countersign_policy::{PUBLISH_AUDIENCE, publish_input};
use countersign_store::Kernel;
use countersign_store::repository::{Stored, TenantRow};

use crate::admission::Admitted;
use crate::decide::{Decide, Decided};
use crate::engine::{Acting, Engine, Operation, tenant_entity};
use crate::error::{Error, PublishAction};
use crate::publish::{Authority, Proposal};

/// What a caller brings along, where the active bundle makes publishing an action that is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Consent {
    /// The session in which the action is done.
    pub session: Option<SessionId>,
    /// The approval to use.
    pub approval: Option<ApprovalId>,
}

impl<K: Kernel> Engine<K> {
    /// Where the active bundle makes publishing an action, decides it like any other, with this service as its enforcement
    /// point. Whoever signed the bundle counts for nothing among those who approve it.
    pub(crate) async fn consented(
        &self,
        proposal: &Proposal,
        authority: &Authority<'_>,
        admitted: &Admitted,
        before: Option<&Stored<TenantRow>>,
    ) -> Result<Option<Decided>, Error> {
        let active = match authority {
            Authority::Caller { scene, .. } => Arc::clone(&scene.active),
            // What this release refuses asks for nothing: whoever starts the server helps.
            Authority::Operator => match self.active() {
                Ok(active) => active,
                Err(_) => return Ok(None),
            },
        };
        if before.is_some_and(|before| before.revision != active.row.revision) {
            return Err(Error::Contention);
        }
        let Some(operation) = active.bundle.publish_operation() else { return Ok(None) };
        let (bundle, rollback) = (&proposal.bundle, proposal.is_rollback());
        let resource = tenant_entity(self.tenant())?;
        let input = publish_input(bundle.digest(), bundle.revision(), rollback);
        let asks = |given: String| {
            let (operation, resource) = (operation.to_owned(), resource.clone());
            let input = Value::Record(input.clone()).canonical();
            Error::PublishAsks(Box::new(PublishAction { operation, resource, input, given }))
        };
        let Authority::Caller { scene, consent: Consent { session: Some(session), approval }, .. } = authority else {
            return Err(asks(String::new()));
        };
        let operation = Operation {
            name: operation.to_owned(),
            resource: resource.clone(),
            input: input.clone(),
            environment: Record::new(),
        };
        let ask = Decide {
            session: *session,
            operation,
            audience: PUBLISH_AUDIENCE.to_owned(),
            acting: Acting::Caller,
            approval: *approval,
            mint: false,
            holder: None,
            open: false,
            entity_revision: None,
        };
        let signers = admitted.signed_by.iter().filter_map(|name| EntityRef::new("Person", name.as_str()).ok());
        let signers = signers.filter(|person| scene.view().contains(person)).collect();
        if let Some(decided) = self.decided(scene, &ask, &signers).await? {
            return Ok(Some(decided));
        }
        let given = match approval {
            Some(approval) => self.not_enough(*approval, &signers, scene.now).await?,
            None => String::new(),
        };
        Err(asks(given))
    }

    /// Why an approval does not suffice, as the end of a sentence.
    async fn not_enough(
        &self,
        approval: ApprovalId,
        signers: &BTreeSet<EntityRef>,
        now: Timestamp,
    ) -> Result<String, Error> {
        let question = self.question(approval).await?;
        let state = question.state(now);
        let votes = question.approval.value.votes();
        let signed: Vec<String> =
            votes.iter().filter(|vote| signers.contains(&vote.person)).map(|vote| vote.person.to_string()).collect();
        Ok(match (state, signed.as_slice()) {
            (ApprovalState::Pending, _) => format!(" (the given one, {approval}, is still pending)"),
            (_, []) => format!(" (the given one, {approval}, does not count any more)"),
            (_, signed) => format!(" (in the given one, {} signed the bundle and does not count)", signed.join(", ")),
        })
    }
}
