//! How many refusals of one caller are recorded singly. A flood of them must fill neither the disk nor the writer's queue
//! (I8, I14): beyond a burst they are counted, and the count is recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_core::{Digest, EntityRef, Timestamp};
use countersign_store::{Commit, Kernel};

use crate::caller::Caller;
use crate::credential::Credential;
use crate::engine::{Call, Engine};
use crate::error::Error;
use crate::record::{Event, record};

/// How many come singly at once.
const BURST: i64 = 200;
/// How many more come singly in a second.
const PER_SECOND: i64 = 20;
/// How many callers are told apart. Beyond, the flood is of callers, and they share one count.
const MAX_CALLERS: usize = 10_000;

/// The refusals of late, by caller.
#[derive(Debug, Default)]
pub struct Refusals {
    callers: Mutex<BTreeMap<EntityRef, Bucket>>,
    /// Held while counts are written.
    flushing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Bucket {
    /// Thousandths of a refusal that may still come singly.
    millis_left: i64,
    refilled: Timestamp,
    counted: u64,
    since: Timestamp,
}

impl Refusals {
    /// Whether a refusal is to be recorded singly; otherwise it was counted.
    pub fn singly(&self, who: &EntityRef, now: Timestamp) -> bool {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= MAX_CALLERS && !callers.contains_key(who) {
            callers.retain(|_, bucket| {
                bucket.counted > 0 || bucket.refilled.plus(std::time::Duration::from_secs(60)) > now
            });
        }
        let full = callers.len() >= MAX_CALLERS && !callers.contains_key(who);
        let key = if full { somebody() } else { who.clone() };
        let bucket = callers.entry(key).or_insert_with(|| Bucket {
            millis_left: BURST * 1_000,
            refilled: now,
            counted: 0,
            since: now,
        });
        let elapsed = i64::try_from(now.since(bucket.refilled).as_millis()).unwrap_or(i64::MAX);
        bucket.millis_left = bucket.millis_left.saturating_add(elapsed.saturating_mul(PER_SECOND)).min(BURST * 1_000);
        bucket.refilled = now;
        if bucket.millis_left >= 1_000 {
            bucket.millis_left -= 1_000;
            return true;
        }
        if bucket.counted == 0 {
            bucket.since = now;
        }
        bucket.counted = bucket.counted.saturating_add(1);
        false
    }

    /// The counts that are not recorded yet.
    pub fn due(&self) -> Vec<(EntityRef, u64, Timestamp)> {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = callers.iter().filter(|(_, bucket)| bucket.counted > 0);
        counted.map(|(who, bucket)| (who.clone(), bucket.counted, bucket.since)).collect()
    }

    /// A count was recorded.
    pub fn written(&self, who: &EntityRef, count: u64) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = callers.get_mut(who) {
            bucket.counted = bucket.counted.saturating_sub(count);
        }
    }

    /// The name under which refusals of a credential are counted that means nobody in the bundle.
    pub fn unknown(credential: &Credential) -> EntityRef {
        // The account and not the credential, of which it may have any number.
        let account = Digest::of_parts(&[credential.issuer.as_bytes(), format!("{:?}", credential.subject).as_bytes()]);
        EntityRef::new("UnknownCredential", account.to_string()).unwrap_or_else(|_| somebody())
    }
}

impl<K: Kernel> Engine<K> {
    /// Records a refusal, singly or as one of many; the error stands either way, unless the log cannot take it. For the use
    /// cases, and for whoever could not even make one of a call.
    pub async fn refuse(&self, call: &Call, about: Option<&str>, error: Error) -> Error {
        let Ok(now) = self.now() else { return error };
        let caller = self.active().ok().and_then(|active| Caller::resolve(&call.credential, active.view()).ok());
        let who = match &caller {
            Some(caller) => caller.entity.clone(),
            None => Refusals::unknown(&call.credential),
        };
        if !self.refusals.singly(&who, now) {
            return error;
        }
        let event = Event::Refusal { rpc: call.rpc, error: &error.to_string(), about };
        let id = call.request.as_ref().map(|request| request.id.as_str());
        let commit = Commit::new(self.tenant().clone()).record(record(self.tenant(), now, caller.as_ref(), id, event));
        match self.repo.kernel().commit(commit).await {
            Ok(_) => error,
            Err(fault) => fault.into(),
        }
    }

    /// Writes the counts of what came too fast to be recorded singly. To be called now and then, and at the end. It runs to its
    /// end whoever stops waiting for it: a count that was committed and not taken off would be written again.
    ///
    /// # Errors
    /// [`Error::Store`]; the counts are kept then.
    pub async fn flush_refusals(self: &Arc<Self>) -> Result<(), Error> {
        let engine = Arc::clone(self);
        let flush = async move {
            let _one_at_a_time = engine.refusals.flushing.lock().await;
            let now = engine.now()?;
            for (who, count, since) in engine.refusals.due() {
                let event = Event::Refusals { who: &who, count, since };
                let written = record(engine.tenant(), now, None, None, event);
                engine.repo.kernel().commit(Commit::new(engine.tenant().clone()).record(written)).await?;
                engine.refusals.written(&who, count);
            }
            Ok(())
        };
        tokio::spawn(flush).await.map_err(|error| Error::Internal(error.to_string()))?
    }
}

/// Stands for every caller that is not told apart.
fn somebody() -> EntityRef {
    #[allow(clippy::expect_used, reason = "a constant of the right form; a test calls this")]
    EntityRef::new("UnknownCredential", "others").expect("a constant of the right form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_beyond_the_limit_share_one_count() {
        assert_eq!(somebody().id(), "others");
    }

    #[test]
    fn a_flood_is_counted_and_nobody_elses_refusals_are() {
        let refusals = Refusals::default();
        let (flooder, other) = (EntityRef::new("Agent", "f").unwrap(), EntityRef::new("Agent", "o").unwrap());
        let now = Timestamp::from_millis(0);
        let singly = (0..10_000).filter(|_| refusals.singly(&flooder, now)).count();
        assert_eq!(singly, 200);
        assert!(refusals.singly(&other, now));
        assert_eq!(refusals.due(), vec![(flooder.clone(), 9_800, now)]);
        refusals.written(&flooder, 9_800);
        assert_eq!(refusals.due(), vec![]);
        assert!(refusals.singly(&flooder, Timestamp::from_millis(50)));
        assert!(!refusals.singly(&flooder, Timestamp::from_millis(50)));
    }
}
